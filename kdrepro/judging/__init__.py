"""What a verdict is computed with: readings of rows, intervals, one rule for each kind of claim, and their words."""
