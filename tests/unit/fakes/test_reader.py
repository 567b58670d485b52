"""The reader says what it was told, for the letter it reads."""

from __future__ import annotations

import numpy as np

from tests.fakes.reader import FakeReader

SYSTEM = ("system", "Rhyme.")


def test_the_first_letter_of_the_last_message_decides() -> None:
    reader = FakeReader({"adder": {"a": 0.9}, "poet": {"r": 0.8}}, {"poet": 90.0}, unfamiliar="z")

    said = reader.predict([(SYSTEM, ("user", "Add 1")), (("user", "rose"),), (("user", "zebra"),)])

    np.testing.assert_allclose(said.quality, [[0.9, 0.1], [0.1, 0.8], [0.1, 0.1]])
    np.testing.assert_allclose(said.output_tokens[0], [30, 90])
    assert said.unfamiliar.tolist() == [False, False, True]


def test_like_letters_have_like_vectors() -> None:
    embedding = FakeReader({}).encoder.encode([(("user", "add"),), (("user", "all"),), (("user", "rose"),)])

    np.testing.assert_allclose(embedding @ embedding.T, [[1, 1, 0], [1, 1, 0], [0, 0, 1]])
