"""What compute costs, who may spend it, and where it goes next. No torch, no I/O."""
