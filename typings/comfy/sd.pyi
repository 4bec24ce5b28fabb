from torch import Tensor

class CLIP:
    def tokenize(
        self, text: str, *, disable_weights: bool = False
    ) -> dict[str, list[list[tuple[int | Tensor, float]]]]: ...
    def encode_from_tokens(
        self, tokens: dict[str, list[list[tuple[int | Tensor, float]]]]
    ) -> Tensor: ...
