"""The pure part: values and total functions. No I/O, no clock, no chance, no log."""
