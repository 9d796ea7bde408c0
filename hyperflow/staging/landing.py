"""Where outputs come home: whole, or not at all."""
