"""The objectives that the papers define, one file per paper."""
