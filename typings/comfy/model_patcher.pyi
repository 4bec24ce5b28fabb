import torch

class ModelPatcher:
    def __init__(
        self, model: torch.nn.Module, load_device: torch.device, offload_device: torch.device
    ) -> None: ...
