"""What a catalogue is expected to save and to lose: in figures, as a curve, as a page."""
