"""Dead, dying and saturated units, the scale of activations by depth, and the first non-finite one."""
