"""When two answers are the same, though they are written in two ways."""

import math
import re
import unicodedata


def normal(text: str) -> str:
    """Without what does not count: case, spacing, quotes and marks around it, and final punctuation."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub(r"[\s]+", " ", text).strip()
    return text.strip("\"'`*_“”„‘’«» ").rstrip(".,;!").strip("\"'`*_“”„‘’«» ")


def same(found: object, wanted: object) -> bool:
    """Equality that tells 1 from true, takes 3.0 for 3, and forgives case and outer spaces of strings."""
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted
    if isinstance(found, str) and isinstance(wanted, str):
        return normal(found) == normal(wanted)
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    if isinstance(found, dict) and isinstance(wanted, dict):
        return set(found) == set(wanted) and all(same(found[key], wanted[key]) for key in wanted)
    if isinstance(found, float) and isinstance(wanted, float):
        return math.isclose(found, wanted, rel_tol=1e-9, abs_tol=1e-12)
    return found == wanted
