"""What `BatchNormGuard` finds, leaves alone, and mends."""
