"""Feature pyramid in, class and mask logits of Q queries out: Mask2Former (arXiv 2112.01527) from transformers' modules."""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoder, Mask2FormerTransformerModule

from semivss.class_rows import merge_rows
from semivss.errors import RecipeError
from semivss.models.deform_attn import PixelDecoderAttention
from semivss.models.lean_decoder import decode
from semivss.settings import Mask2FormerHead
from semivss.tensors import MaskLogits

GROUPS = 32  # of transformers' group normalisation


class Mask2Former(nn.Module):
    """Pixel decoder (deformable attention over strides 8, 16, 32), transformer decoder (masked attention), predictions of every layer."""

    def __init__(self, inputs: Sequence[int], classes: int, settings: Mask2FormerHead, rows: Sequence[int] | None = None) -> None:
        """
        Args:
            inputs: channels of the pyramid's maps, finest first.
            classes: number of classes C; the logits have C + 1 columns, "no object" last.
            settings: sizes.
            rows: the class that each row of the classifier but the last counts for, C = none; none = one row a class.

        Raises:
            RecipeError: the channels are no multiple of 32.
        """
        super().__init__()
        if settings.channels % GROUPS:
            raise RecipeError(
                f"model.mask2former.channels {settings.channels} must be a multiple of {GROUPS}; take {_nearest(settings.channels)}"
            )
        config = transformers_config(settings, classes)
        self.pixel_decoder = Mask2FormerPixelDecoder(config, list(inputs))
        self.transformer = Mask2FormerTransformerModule(settings.channels, config)
        self.classify = nn.Linear(settings.channels, (classes if rows is None else len(rows)) + 1)
        self._classes, self._rows = classes, None if rows is None else (*rows, classes)
        _initialise(self.pixel_decoder, self.transformer)
        for layer in self.pixel_decoder.encoder.layers:  # the parameters keep their names
            layer.self_attn = PixelDecoderAttention(settings.channels, settings.heads)

    def forward(self, pyramid: Sequence[Tensor]) -> MaskLogits:
        """Logits at the finest map's size. Training mode adds those of the earlier layers, the one before the first layer included."""
        pixels = self.pixel_decoder(list(pyramid), output_hidden_states=False)
        if self.training or self._is_shared_out():
            return self._all_layers(pixels.multi_scale_features, pixels.mask_features)
        queries, masks = decode(self.transformer, pixels.multi_scale_features, pixels.mask_features)
        return MaskLogits(self._merged(self.classify(queries)), masks, pixels.mask_features)

    def _all_layers(self, maps: Sequence[Tensor], mask_features: Tensor) -> MaskLogits:
        """By transformers' own module."""
        decoded = self.transformer(maps, mask_features)
        classes = self._merged(self.classify(torch.stack(decoded.intermediate_hidden_states)).transpose(1, 2))  # layers, B, Q, C + 1
        auxiliary = tuple(zip(classes[:-1].unbind(0), decoded.masks_queries_logits[:-1], strict=True))
        return MaskLogits(classes[-1], decoded.masks_queries_logits[-1], mask_features, auxiliary)

    def _merged(self, rows: Float[Tensor, "*B Q R1"]) -> Float[Tensor, "*B Q C1"]:
        """Class logits from the classifier's rows."""
        return rows if self._rows is None else merge_rows(rows, self._rows, self._classes + 1)

    def _is_shared_out(self) -> bool:
        """Whether a layer's parameters are whole only while that layer is called (`train/sharding.py`)."""
        return isinstance(next(self.transformer.decoder.layers.parameters()), DTensor)

    def units(self) -> list[nn.Module]:
        """The parts that `recompute` wraps one by one: transformers declares none."""
        return [*self.pixel_decoder.encoder.layers, *self.transformer.decoder.layers]


def transformers_config(settings: Mask2FormerHead, classes: int) -> Mask2FormerConfig:
    """The configuration of a transformers model with the same head and loss."""
    return Mask2FormerConfig(
        num_labels=classes,
        feature_size=settings.channels,
        mask_feature_size=settings.mask_channels or settings.channels,
        hidden_dim=settings.channels,
        num_queries=settings.queries,
        encoder_layers=settings.encoder_layers,
        decoder_layers=settings.decoder_layers + 1,  # transformers counts the prediction before the first layer
        num_attention_heads=settings.heads,
        encoder_feedforward_dim=settings.encoder_feedforward,
        dim_feedforward=settings.feedforward,
        train_num_points=settings.points,
        oversample_ratio=settings.oversample,
        importance_sample_ratio=settings.importance,
        class_weight=settings.class_weight,
        mask_weight=settings.mask_weight,
        dice_weight=settings.dice_weight,
        no_object_weight=settings.no_object_weight,
    )


def _initialise(pixel_decoder: nn.Module, transformer: nn.Module) -> None:
    """As the published code: Xavier for attention and feed-forward, variance-keeping for convolutions, unit normal for embeddings.

    transformers leaves the level embedding uninitialised and makes convolutions so small that all masks start at 0.
    """
    nn.init.normal_(cast(Tensor, pixel_decoder.level_embed))
    for module in pixel_decoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_uniform_(module.weight, a=1)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for stack in (pixel_decoder.get_submodule("encoder"), transformer.get_submodule("decoder.layers")):
        for name, parameter in stack.named_parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith(("proj.bias", "proj_bias")):
                nn.init.zeros_(parameter)


def _nearest(channels: int) -> int:
    return max(GROUPS, round(channels / GROUPS) * GROUPS)
