"""The papers' nets."""
