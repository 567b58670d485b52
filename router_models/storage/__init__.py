"""An artifact as a folder: written whole, checked whole, never edited."""
