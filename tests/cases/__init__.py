"""What tests share: cases, inputs, doubles of other people's code."""
