"""What is matched: pure functions, student first, teacher second, one value per position, never reduced."""
