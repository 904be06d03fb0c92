"""The relay's brain: who may allocate, which port, which channel. The data itself is moved by compiled tables it writes."""
