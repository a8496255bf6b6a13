"""Every way to switch the diagnostics on, each as a user does it: a script of his, run by Python."""
