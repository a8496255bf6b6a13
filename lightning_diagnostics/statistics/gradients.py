"""What batches tell of the noise on a gradient."""


def gradient_noise(small_square: float, big_square: float, *, small: float, big: float) -> tuple[float, float]:
    """What two batch sizes tell of the true gradient and of the noise on it (McCandlish et al. 2018, appendix A.1).

    Both estimates are unbiased; their quotient is not. So each is to be averaged over steps by itself, and then
    ``noise / signal`` is the simple noise scale, in samples: the batch size at which noise and signal are alike. It
    has no value where the averaged signal is not positive.

    Args:
        small_square: Squared L2 norm of the mean gradient of ``small`` samples, or the mean of several such.
        big_square: Squared L2 norm of the mean gradient of ``big`` samples.
        small: Samples in a small batch, > 0.
        big: Samples in the big batch, more than ``small``.

    Returns:
        The signal ``|G|^2 = (big * big_square - small * small_square) / (big - small)``, and the noise ``tr(Sigma) =
        (small_square - big_square) / (1 / small - 1 / big)`` of one sample. Either may be negative by chance.

    Raises:
        ValueError: if the sizes are not as described.

    Example:
        >>> signal, noise = gradient_noise(5.75, 4.625, small=2, big=4)
        >>> signal, noise, round(noise / signal, 4)
        (3.5, 4.5, 1.2857)
    """
    # Validate the arguments.
    if not small > 0:
        raise ValueError(f"small={small!r}: allowed is more than 0")
    if not big > small:
        raise ValueError(f"big={big!r}: allowed is more than small={small!r}")

    # Compute the estimates.
    signal = (big * big_square - small * small_square) / (big - small)
    return signal, (small_square - big_square) / (1 / small - 1 / big)
