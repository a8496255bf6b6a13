"""All healthy programs of the sweep."""

from functools import partial
from typing import Any

from torch import nn
from torch.nn import functional

from tests.diagnostics.generalization_gap import networks_data as data
from tests.diagnostics.generalization_gap.networks_data import Program, of
from tests.diagnostics.generalization_gap.networks_kinds import (
    Adversarial,
    Autoencoder,
    Averaged,
    Contrastive,
    Finetuned,
    GaussianRegression,
    Learner,
    Loss,
    Mixup,
    NoisyInputs,
    Recurrent,
    Transformer,
    TwoTasks,
    Variational,
    WithMetrics,
    adam,
    adamw,
    cnn,
    mlp,
    sgd,
)

DIGITS, IMAGES = of(data.digits), of(data.images)
SMOOTHED: Loss = partial(functional.cross_entropy, label_smoothing=0.1)


def weighted(outputs: Any, labels: Any) -> Any:
    """A cross entropy in which a rare class counts nineteen times."""
    return functional.cross_entropy(outputs, labels, weight=outputs.new_tensor([1.0, 19.0]))


def focal(outputs: Any, labels: Any) -> Any:
    """A cross entropy in which what is known counts less."""
    each = functional.cross_entropy(outputs, labels, reduction="none")
    return ((1 - (-each).exp()).square() * each).mean()


def hinge(outputs: Any, labels: Any) -> Any:
    """The margin by which the right class is above the others."""
    return functional.multi_margin_loss(outputs, labels)


BINARY = functional.binary_cross_entropy_with_logits

NETWORKS: tuple[Program, ...] = (
    # Dense networks on digits.
    Program("mlp_adam", lambda: Learner(mlp(64, 64, 10)), DIGITS),
    Program("mlp_interpolating", lambda: Learner(mlp(64, 256, 256, 10)), DIGITS, 30),
    Program("mlp_interpolating_metrics", lambda: WithMetrics(mlp(64, 256, 256, 10)), DIGITS, 25),
    Program("mlp_sgd", lambda: Learner(mlp(64, 64, 10), sgd(0.1)), DIGITS, 20),
    Program("mlp_cosine", lambda: Learner(mlp(64, 64, 10), sgd(0.1, 0.9), cosine=440), DIGITS, 20),
    Program("mlp_adamw_strong", lambda: Learner(mlp(64, 128, 10), adamw(2e-3, 1.0)), DIGITS, 25),
    Program("mlp_decay", lambda: Learner(mlp(64, 128, 10), sgd(0.1, 0.9, weight_decay=3e-3)), DIGITS, 25),
    Program("mlp_batch_8", lambda: Learner(mlp(64, 64, 10), adam(1e-3)), of(data.digits, 8), 8),
    Program("mlp_batch_256", lambda: Learner(mlp(64, 64, 10), adam(5e-3)), of(data.digits, 256), 20),
    Program("mlp_dropout_0.1", lambda: Learner(mlp(64, 128, 10, dropout=0.1)), DIGITS, 20),
    Program("mlp_dropout_0.5", lambda: Learner(mlp(64, 128, 128, 10, dropout=0.5)), DIGITS, 20),
    Program("mlp_dropout_0.7", lambda: Learner(mlp(64, 256, 10, dropout=0.7)), DIGITS, 20),
    Program("mlp_bn", lambda: Learner(mlp(64, 64, 64, 10, norm=True)), DIGITS, 15),
    Program("mlp_bn_dropout", lambda: Learner(mlp(64, 64, 10, norm=True, dropout=0.3)), DIGITS, 15),
    Program("mlp_bn_batch_8", lambda: Learner(mlp(64, 64, 10, norm=True)), of(data.digits, 8), 8),
    Program("adam_rate_0.02", lambda: Learner(mlp(64, 64, 10), adam(0.02)), DIGITS, 20),
    Program("sgd_rate_0.5", lambda: Learner(mlp(64, 64, 10), sgd(0.5)), DIGITS, 25),
    Program("linear_60_validations", lambda: Learner(mlp(64, 10), adam(1e-3)), DIGITS, 60),
    Program("slow_start", lambda: Learner(mlp(64, 64, 10), sgd(0.02)), DIGITS, 30, 0.8),
    Program("loss_alone", lambda: Learner(mlp(64, 64, 10), adam(1e-3), scored=False), DIGITS, 15, 0.4, "val_loss"),
    Program(
        "twenty_batches",
        lambda: Learner(mlp(64, 64, 10), adam(5e-3)),
        DIGITS,
        5,
        0.6,
        settings={"limit_train_batches": 4},
    ),
    Program("epochs_of_5_batches", lambda: Learner(mlp(64, 64, 10)), DIGITS, 40, settings={"limit_train_batches": 5}),
    Program(
        "mid_epoch", lambda: Learner(mlp(64, 64, 10), adam(4e-3)), DIGITS, 6, settings={"val_check_interval": 0.25}
    ),
    Program(
        "mid_epoch_every_7_steps",
        lambda: Learner(cnn(norm=True)),
        IMAGES,
        5,
        settings={"val_check_interval": 7, "check_val_every_n_epoch": None},
    ),
    Program("sanity_and_few", lambda: Learner(mlp(64, 64, 10)), DIGITS, 10, settings={"num_sanity_val_steps": 2}),
    # Validation sets of all kinds.
    Program("one_validation_batch", lambda: Learner(mlp(64, 64, 10)), data.validated_on(20, 20), 15, 0.8),
    Program("twenty_samples", lambda: Learner(mlp(64, 64, 10), sgd(0.1)), data.validated_on(20, 4), 15, 0.8),
    Program("forty_samples", lambda: Learner(mlp(64, 64, 10, norm=True)), data.validated_on(40, 8), 15, 0.8),
    Program("sixty_samples", lambda: Learner(mlp(64, 128, 10, dropout=0.5)), data.validated_on(60, 20), 20, 0.8),
    Program("batches_of_one", lambda: Learner(mlp(64, 64, 10)), data.validated_on(60, 1), 15, 0.8),
    Program(
        "two_validations", lambda: Learner(mlp(64, 64, 10)), data.two_validations, 10, 0.9, "val_acc/dataloader_idx_0"
    ),
    Program(
        "three_small_validations",
        lambda: Learner(mlp(64, 64, 10, dropout=0.3)),
        data.three_small_validations,
        12,
        0.85,
        "val_acc/dataloader_idx_1",
    ),
    # Convolutions.
    Program("cnn", lambda: Learner(cnn()), IMAGES, 15),
    Program("cnn_bn", lambda: Learner(cnn(norm=True)), IMAGES, 12),
    Program("cnn_bn_sgd_0.5", lambda: Learner(cnn(norm=True), sgd(0.5)), IMAGES, 15),
    Program("cnn_bn_batch_8", lambda: Learner(cnn(norm=True), adam(1e-3)), of(data.images, 8), 6),
    Program("cnn_bn_momentum_0.01", lambda: Learner(cnn(norm=True, momentum=0.01)), of(data.images, 16), 10),
    Program("cnn_dropout", lambda: Learner(cnn(dropout=0.3)), IMAGES, 15),
    Program(
        "cnn_bn_validated_late",
        lambda: Learner(cnn(norm=True), adam(5e-3)),
        IMAGES,
        32,
        settings={"check_val_every_n_epoch": 4},
    ),
    Program("finetuned", lambda: Finetuned(frozen=False), IMAGES, 12),
    Program("frozen_features", lambda: Finetuned(frozen=True), IMAGES, 20),
    Program("averaged_weights", lambda: Averaged(mlp(64, 64, 10), share=0.05), DIGITS, 15),
    Program("slowly_averaged_weights", lambda: Averaged(mlp(64, 64, 10), share=0.01), DIGITS, 25),
    # What is done to samples and labels.
    Program("label_smoothing", lambda: Learner(mlp(64, 64, 10), loss=SMOOTHED), DIGITS, 20),
    Program("label_smoothing_in_training", lambda: Learner(mlp(64, 128, 10), training_loss=SMOOTHED), DIGITS, 25),
    Program("mixup", lambda: Mixup(mlp(64, 128, 10)), DIGITS, 20),
    Program("noisy_inputs", lambda: NoisyInputs(mlp(64, 128, 10)), DIGITS, 20),
    Program("shifted_images", lambda: Learner(cnn(norm=True)), data.augmented("shifts"), 12),
    Program("noisy_images", lambda: Learner(cnn()), data.augmented("noise"), 12),
    Program("noisy_collate", lambda: Learner(mlp(64, 128, 10)), data.noisy_batches, 12),
    # Other losses.
    Program(
        "focal_loss", lambda: Learner(mlp(64, 64, 10), adam(5e-4), focal, scored=False), DIGITS, 15, 0.3, "val_loss"
    ),
    Program("hinge_loss", lambda: Learner(mlp(64, 64, 10), sgd(0.1), hinge), DIGITS, 15),
    Program("tumours", lambda: Learner(mlp(30, 16, 2), adam(1e-3)), of(data.cancer, 32, 16), 15),
    Program("tumours_bce", lambda: Learner(mlp(30, 16, 1), adam(1e-3), BINARY), of(data.cancer_as_numbers, 16, 16), 12),
    Program(
        "tumours_bce_alone",
        lambda: Learner(mlp(30, 1), adam(1e-3), BINARY, scored=False),
        of(data.cancer_as_numbers, 16, 16),
        30,
        0.25,
        "val_loss",
    ),
    Program("wines", lambda: Learner(mlp(13, 16, 3), adam(3e-3)), of(data.wine, 16, 8), 15, 0.85),
    Program("rare_class", lambda: Learner(mlp(20, 32, 2)), of(data.rare, 32), 12, 0.96),
    Program("rare_class_weighted", lambda: Learner(mlp(20, 32, 2), sgd(0.01), weighted), of(data.rare), 30, 0.8),
    Program(
        "rare_class_weighted_loss_alone",
        lambda: Learner(mlp(20, 32, 2), adam(3e-4), weighted, scored=False),
        of(data.rare),
        25,
        0.4,
        "val_loss",
    ),
    Program("rare_class_drawn_as_often", lambda: Learner(mlp(20, 32, 2)), data.rare_drawn_as_often, 12, 0.9),
    Program(
        "rare_and_hard", lambda: Learner(mlp(10, 2), adam(0.03)), of(data.rare_and_hard, 128, 64), 15, 0.18, "val_loss"
    ),
    Program(
        "rare_and_hard_weighted",
        lambda: Learner(mlp(10, 2), adam(5e-3), weighted),
        of(data.rare_and_hard, 128, 64),
        15,
        0.67,
        "val_loss",
    ),
    Program("log_likelihood", GaussianRegression, DIGITS, 15, -1.5, "val_loss"),
    Program("autoencoder", Autoencoder, DIGITS, 15, 0.05, "val_loss"),
    Program("variational", Variational, DIGITS, 15, 0.55, "val_loss"),
    Program("contrastive", Contrastive, of(data.digits, 64, 32), 15, 1.2, "val_loss"),
    Program("contrastive_batch_16", Contrastive, of(data.digits, 64, 64), 15, 1.7, "val_loss"),
    Program("two_tasks", TwoTasks, DIGITS, 40, 2.6, "val_loss"),
    Program("adversarial", Adversarial, DIGITS, 20, 0.15, "val_distance"),
    # Regression.
    *(
        Program(
            f"diabetes_{name}",
            lambda loss=loss: Learner(mlp(10, 8, 1), adam(2e-3, weight_decay=1e-3), loss, scored=False),
            of(data.diabetes, 32, 8),
            20,
            bar,
            "val_loss",
        )
        for name, loss, bar in (
            ("mse", functional.mse_loss, 0.85),
            ("mae", functional.l1_loss, 0.75),
            ("huber", functional.huber_loss, 0.4),
        )
    ),
    *(
        Program(
            f"friedman_{name}",
            lambda loss=loss: Learner(mlp(10, 64, 1), adam(1e-3), loss, scored=False),
            of(data.friedman, 32, 16),
            20,
            bar,
            "val_loss",
        )
        for name, loss, bar in (
            ("mse", functional.mse_loss, 0.1),
            ("mae", functional.l1_loss, 0.25),
            ("huber", functional.huber_loss, 0.05),
        )
    ),
    Program(
        "friedman_bn",
        lambda: Learner(mlp(10, 64, 64, 1, norm=True), adam(2e-3), functional.mse_loss, scored=False),
        of(data.friedman, 32, 16),
        12,
        0.1,
        "val_loss",
    ),
    Program(
        "raw_targets",
        lambda: Learner(nn.Sequential(mlp(10, 32, 1)), adam(0.03), functional.mse_loss, scored=False),
        of(data.raw_diabetes, 32, 8),
        20,
        4500,
        "val_loss",
    ),
    # Text.
    Program("gru", lambda: Learner(Recurrent(), adam(5e-3)), of(data.characters, 32, 32), 8, 0.35),
    Program("transformer", lambda: Learner(Transformer(), adam(5e-3)), of(data.characters, 32, 32), 8, 0.3),
)
