#!/usr/bin/env python3
"""Makes tests/fixtures/students/resnet: torchvision's ResNets, two channels wide, and what they say of some images.

    tools/make_test_resnet.py

Needs torch, torchvision and safetensors. The built-in students take these weights under torchvision's names and are held
to these logits, in evaluation and in training mode. One of them is there as TorchScript too, a student that is not built in.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

FOLDER = Path(__file__).resolve().parent.parent / "tests/fixtures/students/resnet"
WIDTH, CLASSES = 2, 10
# Name, block, blocks of each stage, stem, and one image.
MODELS = [
    ("resnet18", BasicBlock, [2, 2, 2, 2], "small", (1, 28, 28)),
    ("resnet34", BasicBlock, [3, 4, 6, 3], "imagenet", (3, 65, 50)),
    ("resnet50", Bottleneck, [3, 4, 6, 3], "imagenet", (3, 64, 64)),
]


def narrow(block, blocks, stem, channels):
    """torchvision's own network and forward pass, its stages made again from `WIDTH` channels instead of 64."""
    model = ResNet(block, [1, 1, 1, 1], num_classes=CLASSES)
    model.inplanes = WIDTH
    if stem == "small":
        model.conv1 = nn.Conv2d(channels, WIDTH, 3, 1, 1, bias=False)
        model.maxpool = nn.Identity()
    else:
        model.conv1 = nn.Conv2d(channels, WIDTH, 7, 2, 3, bias=False)
    model.bn1 = nn.BatchNorm2d(WIDTH)
    for stage, count in enumerate(blocks):
        made = model._make_layer(block, WIDTH << stage, count, stride=1 if stage == 0 else 2)
        setattr(model, f"layer{stage + 1}", made)
    model.fc = nn.Linear((WIDTH << 3) * block.expansion, CLASSES)
    return model


def main():
    torch.manual_seed(18)
    FOLDER.mkdir(parents=True, exist_ok=True)
    said = {}
    for name, block, blocks, stem, shape in MODELS:
        model = narrow(block, blocks, stem, shape[0])
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    # A norm that begins as the identity would hide what it is given.
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.uniform_(-0.3, 0.3)
                    module.running_mean.uniform_(-0.3, 0.3)
                    module.running_var.uniform_(0.5, 1.5)
        save_file(model.state_dict(), FOLDER / f"{name}.safetensors")
        if name == "resnet18":
            torch.jit.script(model).save(FOLDER / f"{name}.pt")
        # Values that single precision has exactly, so that they can be made again anywhere.
        count = torch.Size((3, *shape)).numel()
        images = ((torch.arange(count) * 7919 % 1009) / 512 - 1).view(3, *shape)
        model.double()
        with torch.no_grad():
            evaluated = model.eval()(images.double())
            trained = model.train()(images.double())
        said[name] = {
            "stem": stem, "shape": list(shape), "evaluated": evaluated.flatten().tolist(),
            "trained": trained.flatten().tolist(), "bn1.running_mean": model.bn1.running_mean.tolist(),
        }
        print(f"{name}: {sum(p.numel() for p in model.parameters())} weights")
    (FOLDER / "expected.json").write_text(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
