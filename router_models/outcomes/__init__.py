"""What real models answered to real prompts, and how good that was; what of it is learned from, and what tested on."""
