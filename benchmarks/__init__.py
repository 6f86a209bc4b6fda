"""Programs that measure chatkit_trio, beside the original where there is something to compare."""
