"""Train and validation measured on the same footing, and what lies between them."""
