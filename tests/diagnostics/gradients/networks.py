"""All healthy programs of the sweep."""

from tests.diagnostics.activations.networks import NETWORKS as OTHERS
from tests.diagnostics.gradients import networks_kinds, networks_training
from tests.diagnostics.gradients.networks_data import Program, reused

_REUSED = (
    *("sixteen_plain_layers", "batch_norm_sgd", "dropout_half", "raw_inputs", "dark_inputs_raw_sgd", "selu_net"),
    *("sigmoid_net", "tumours", "wines", "DiabetesRegression", "OneCycle", "Highway", "L1OnCode", "NormBeforeRelu"),
    *("HardswishNet", "ChannelAttention", "NormFreeResNet", "ConvNeXt", "UNet", "ManyPlainConvolutions"),
    *("GruOverRows", "ReluRecurrence", "BagOfLetters", "TextConvolution", "Dilated", "AttentionPooling"),
    *("Adversarial", "Deconvolutional", "Wasserstein", "Variational", "SparseCode", "NonNegative", "Bottleneck"),
    *("MaskedExperts", "EmptyExperts", "FineTuned", "Triplet", "Siamese", "Contrastive", "ActorCritic", "Policy"),
    *("Coupling", "TwoTasks", "Quantile", "HingeMachine", "unshuffled"),
)
"""Of those of the sweep of activations, as many kinds as there are."""

NETWORKS: tuple[Program, ...] = (
    *networks_training.PROGRAMS,
    *networks_kinds.PROGRAMS,
    *(reused(program) for program in OTHERS if program.name in _REUSED),
)
