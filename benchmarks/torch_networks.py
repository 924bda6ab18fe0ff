"""PyTorch versions of three methods' training steps, to be timed beside ours (`benchmarks/steps.py`).

Written from the layer lists of `models/ganomaly.py`, `models/draem.py`, `models/segmentation.py` and
`models/grdnet.py`, with the same names, losses and optimisers; `tests/test_torch_networks.py` copies the weights of the
Keras networks and finds equal outputs and losses. PyTorch is a requirement of this benchmark alone
(`pip install ".[benchmark]"`).

Images are `[B, C, H, W]` here. All run on any device, with or without the layout "channels last" and, where `dtype` is
`torch.bfloat16`, with autocast.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from ganspect.models.losses import _gaussian_bands
from ganspect.models.segmentation import LEVELS


class Network(nn.Module):
    """Layers by the names that they have in Keras, and a forward pass over them."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleDict()

    def add(self, name, layer):
        """Keeps a layer under its Keras name and returns it."""
        self.parts[name] = layer
        return layer


def copy_weights(network, keras_model):
    """Copies the weights of a Keras model, layer by layer, into the network of the same layer names.

    Raises:
        KeyError: the Keras model has a layer that the network lacks.
    """
    for layer in keras_model.layers:
        values = [torch.from_numpy(v.numpy().copy()) for v in layer.weights]
        if not values:
            continue
        part = network.parts[layer.name]
        with torch.no_grad():
            if isinstance(part, nn.BatchNorm2d):
                held = (part.weight, part.bias, part.running_mean, part.running_var)
            elif isinstance(part, nn.Linear):
                values[0] = values[0].T
                held = (part.weight, *([part.bias] if part.bias is not None else []))
            else:  # [h, w, in, out], or [h, w, out, in] of a transposed one
                values[0] = values[0].permute(3, 2, 0, 1)
                held = (part.weight, *([part.bias] if part.bias is not None else []))
            for target, value in zip(held, values, strict=True):
                target.copy_(value)


class Trunk(Network):
    """What GANomaly's encoders and discriminator start with, and their last convolution."""

    def __init__(self, config, outputs, head):
        super().__init__()
        self.slope = config.slope
        inputs = config.channels
        self.plan = []
        for i, (filters, kernel, stride, normalised) in enumerate(ganomaly_stages(config), 1):
            steps = [self.add(f"conv{i}", nn.Conv2d(inputs, filters, kernel, stride, 1, bias=config.bias))]
            if normalised:
                norm = nn.BatchNorm2d(filters, config.norm_epsilon, 1 - config.norm_momentum)
                steps.append(self.add(f"norm{i}", norm))
            self.plan.append(steps)
            inputs = filters
        self.head = self.add(head, nn.Conv2d(inputs, outputs, 4, bias=config.bias))

    def forward(self, x):
        for steps in self.plan:
            for step in steps:
                x = step(x)
            x = F.leaky_relu(x, self.slope)
        return self.head(x).flatten(1), x


def ganomaly_stages(config):
    """`models.ganomaly.stages`, which this file does not import so that it needs no Keras model's module."""
    first, *rest = (config.width * 2**i for i in range(int(math.log2(config.image_size)) - 2))
    return [(first, 4, 2, False), *((filters, 4, 2, True) for filters in rest)]


class GANomalyDecoder(Network):
    """G_D: latents `[B, L]` to images in (-1, 1)."""

    def __init__(self, config):
        super().__init__()
        plan = ganomaly_stages(config)
        last = plan[-1][0]
        self.add("unfold", nn.ConvTranspose2d(config.latent_size, last, 4, bias=config.bias))
        outputs = [config.channels, *(filters for filters, *_ in plan[:-1])]
        inputs = last
        for i, filters in enumerate(reversed(outputs), 1):
            self.add(f"norm{i}", nn.BatchNorm2d(inputs, config.norm_epsilon, 1 - config.norm_momentum))
            self.add(f"convt{i}", nn.ConvTranspose2d(inputs, filters, 4, 2, 1, bias=config.bias))
            inputs = filters

    def forward(self, z):
        x = self.parts["unfold"](z[:, :, None, None])
        for i in range(1, len(self.parts) // 2 + 1):
            x = self.parts[f"convt{i}"](F.relu(self.parts[f"norm{i}"](x)))
        return torch.tanh(x)


class GANomalyStep:
    """GANomaly's step, preset "official" without extra layers or a head.

    Args:
        config: `models.ganomaly.GANomalyConfig`.
        order: "official", the work of the authors' code: D sees both batches for its own loss and again for G's, whose
            backward pass also makes D's gradients, to be thrown away; its loss is read at every step. "once": each
            network runs once and only gradients that are used are made.
        device: "cpu" or "cuda".
        channels_last: the memory layout of networks and images.
        dtype: None or `torch.bfloat16`, for autocast.
    """

    names = ("encoder", "decoder", "second_encoder", "discriminator")

    def __init__(self, config, order="once", device="cpu", channels_last=False, dtype=None):
        self.order, self.autocast = order, _autocast(device, dtype)
        self.encoder, self.second_encoder = (Trunk(config, config.latent_size, "latents") for _ in range(2))
        self.decoder = GANomalyDecoder(config)
        self.discriminator = Trunk(config, 1, "head")
        _placed(self, device, channels_last)
        self.generative = _parameters(self.encoder, self.decoder, self.second_encoder)
        self.generator_optimizer, self.discriminator_optimizer = (
            torch.optim.Adam(parameters, config.rate, (config.beta_1, config.beta_2))
            for parameters in (self.generative, _parameters(self.discriminator))
        )
        self.weights = config.adversarial_weight, config.contextual_weight, config.encoder_weight

    def generated(self, images):
        """Codes, reconstructions and codes of those."""
        codes, _ = self.encoder(images)
        rebuilt = self.decoder(codes)
        return codes, rebuilt, self.second_encoder(rebuilt)[0]

    def losses(self, images):
        """Both losses from one pass of each network: scalars "g_loss" and "d_loss"."""
        codes, rebuilt, again = self.generated(images)
        real, features = self.discriminator(images)
        fake, rebuilt_features = self.discriminator(rebuilt)
        return {
            "g_loss": self._generative(images, codes, rebuilt, again, features, rebuilt_features),
            "d_loss": self._adversarial(real, fake),
        }

    def _generative(self, images, codes, rebuilt, again, features, rebuilt_features):
        adversarial, contextual, encoding = self.weights
        return (
            adversarial * F.mse_loss(rebuilt_features.float(), features.float())
            + contextual * F.l1_loss(rebuilt.float(), images)
            + encoding * F.mse_loss(again.float(), codes.float())
        )

    def _adversarial(self, real, fake):
        """(BCE(D(x), 1) + BCE(D(G(x)), 0)) / 2, from logits."""
        real, fake = real.float(), fake.float()
        return 0.5 * (
            F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
            + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
        )

    def step(self, images):
        """One update of all networks; images `[B, C, S, S]` in [-1, 1]. Returns the two losses, tensors."""
        found = self._official(images) if self.order == "official" else self._once(images)
        return {name: value.detach() for name, value in found.items()}

    def _once(self, images):
        with self.autocast():
            found = self.losses(images)
        discriminative = _parameters(self.discriminator)
        d_gradients = torch.autograd.grad(found["d_loss"], discriminative, retain_graph=True)
        g_gradients = torch.autograd.grad(found["g_loss"], self.generative)
        _apply(self.generator_optimizer, self.generative, g_gradients)
        _apply(self.discriminator_optimizer, discriminative, d_gradients)
        return found

    def _official(self, images):
        with self.autocast():
            codes, rebuilt, again = self.generated(images)
            real, _ = self.discriminator(images)
            fake, _ = self.discriminator(rebuilt.detach())
        self.generator_optimizer.zero_grad()
        with self.autocast():
            features, rebuilt_features = self.discriminator(images)[1], self.discriminator(rebuilt)[1]
            g_loss = self._generative(images, codes, rebuilt, again, features, rebuilt_features)
        g_loss.backward(retain_graph=True)
        self.generator_optimizer.step()
        self.discriminator_optimizer.zero_grad()
        d_loss = self._adversarial(real, fake)
        d_loss.backward()
        self.discriminator_optimizer.step()
        d_loss.item()  # the code compares it with 1e-5
        return {"g_loss": g_loss, "d_loss": d_loss}


class UNetLike(Network):
    """3x3 convolutions with batch normalisation and ReLU, of `models/segmentation.py`."""

    def unit(self, name, inputs, filters):
        """Convolution, normalisation; `run` applies them."""
        self.add(f"{name}_conv", nn.Conv2d(inputs, filters, 3, padding=1))
        self.add(f"{name}_norm", nn.BatchNorm2d(filters, 1e-5, 0.1))

    def block(self, name, inputs, filters, last=None):
        """Two of them."""
        self.unit(f"{name}a", inputs, filters)
        self.unit(f"{name}b", filters, last or filters)

    def run(self, name, x):
        """Convolution, normalisation, ReLU."""
        return F.relu(self.parts[f"{name}_norm"](self.parts[f"{name}_conv"](x)))

    def run_block(self, name, x):
        """Two of them."""
        return self.run(f"{name}b", self.run(f"{name}a", x))

    def enlarged(self, name, x):
        """Bilinear enlargement by 2, then a convolution."""
        return self.run(name, F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))


class Reconstructive(UNetLike):
    """`models.draem.build_reconstructive`."""

    def __init__(self, channels, width):
        super().__init__()
        inputs = channels
        for i, multiple in enumerate((1, 2, 4, 8, 8), 1):
            self.block(f"down{i}", inputs, multiple * width)
            inputs = multiple * width
        for i, (multiple, last) in enumerate(((8, 4), (4, 2), (2, 1), (1, 1)), 1):
            self.unit(f"enlarge{i}", inputs, multiple * width)
            self.block(f"up{i}", multiple * width, multiple * width, last * width)
            inputs = last * width
        self.add("image", nn.Conv2d(inputs, channels, 3, padding=1))

    def forward(self, x):
        for i in range(1, 6):
            x = self.run_block(f"down{i}", F.max_pool2d(x, 2) if i > 1 else x)
        for i in range(1, 5):
            x = self.run_block(f"up{i}", self.enlarged(f"enlarge{i}", x))
        return self.parts["image"](x)


class Segmentation(UNetLike):
    """`models.segmentation.build_segmentation`."""

    def __init__(self, channels, width):
        super().__init__()
        inputs = 2 * channels
        for i, multiple in enumerate(LEVELS, 1):
            self.block(f"down{i}", inputs, multiple * width)
            inputs = multiple * width
        for i, multiple in zip(range(5, 0, -1), (8, 4, 2, 1, 1), strict=True):
            self.unit(f"enlarge{i}", inputs, multiple * width)
            self.block(f"up{i}", (multiple + LEVELS[i - 1]) * width, multiple * width)
            inputs = multiple * width
        self.add("logits", nn.Conv2d(inputs, 2, 3, padding=1))

    def forward(self, x):
        levels = []
        for i in range(1, len(LEVELS) + 1):
            x = self.run_block(f"down{i}", F.max_pool2d(x, 2) if levels else x)
            levels.append(x)
        for i in range(5, 0, -1):
            x = self.run_block(f"up{i}", torch.cat([self.enlarged(f"enlarge{i}", x), levels[i - 1]], 1))
        return self.parts["logits"](x)


class Similarity:
    """`losses.structural_similarity` of images `[B, C, H, W]`."""

    def __init__(self, size, device):
        self.bands = torch.from_numpy(_gaussian_bands(size)).to(device)

    def __call__(self, images, others):
        def blurred(x):
            return self.bands @ x @ self.bands.T

        mean, other_mean = blurred(images), blurred(others)
        variances = blurred(images.square() + others.square()) - mean.square() - other_mean.square()
        covariance = blurred(images * others) - mean * other_mean
        c1, c2 = 0.01**2, 0.03**2
        luminance = (2 * mean * other_mean + c1) / (mean.square() + other_mean.square() + c1)
        return (luminance * (2 * covariance + c2) / (variances + c2)).mean()


def focal_loss(probabilities, target, gamma):
    """`losses.focal_loss`."""
    p = torch.clamp(target * probabilities + (1 - target) * (1 - probabilities), min=1e-5)
    return (-((1 - p) ** gamma) * torch.log(p)).mean()


class DRAEMStep:
    """DRAEM's step.

    Args:
        config: `models.draem.DRAEMConfig`.
        device, channels_last, dtype: as of `GANomalyStep`.
    """

    names = ("reconstructive", "segmentation")

    def __init__(self, config, device="cpu", channels_last=False, dtype=None):
        self.gamma, self.autocast = config.gamma, _autocast(device, dtype)
        self.reconstructive = Reconstructive(config.channels, 2 * config.width)
        self.segmentation = Segmentation(config.channels, config.width)
        _placed(self, device, channels_last)
        self.optimizer = torch.optim.Adam(_parameters(self.reconstructive, self.segmentation), config.rate)
        self.similarity = Similarity(config.patch_size, device)

    def losses(self, batch):
        """L and its parts, as `DRAEM.losses`; batch `{"images", "corrupted": [B, C, p, p], "mask": [B, 1, p, p]}`."""
        with self.autocast():
            rebuilt = self.reconstructive(batch["corrupted"])
            logits = self.segmentation(torch.cat([rebuilt, batch["corrupted"]], 1))
        rebuilt, marked = rebuilt.float(), logits.float().softmax(1)[:, 1:]
        squared = F.mse_loss(rebuilt, batch["images"])
        dissimilarity = 1.0 - self.similarity(batch["images"], rebuilt)
        focal = focal_loss(marked, batch["mask"], self.gamma)
        parts = {"squared": squared, "dissimilarity": dissimilarity, "focal": focal}
        return {"loss": squared + dissimilarity + focal, **parts}

    def step(self, batch):
        """One update of both networks; returns the losses, tensors."""
        self.optimizer.zero_grad()
        found = self.losses(batch)
        found["loss"].backward()
        self.optimizer.step()
        return {name: value.detach() for name, value in found.items()}


class GRDNetPath(Network):
    """GRD-Net's blocks: convolutions without bias, "same" as TensorFlow pads, leaky ReLU 0.2 behind each.

    Args:
        config: `models.grdnet.GRDNetConfig` without batch normalisation.
    """

    def __init__(self, config):
        super().__init__()
        self.residual = config.residual

    def unit(self, name, inputs, filters, kernel=3, strides=1, transposed=False):
        """A convolution of this kind; `run` applies it."""
        kind = nn.ConvTranspose2d if transposed else nn.Conv2d
        layer = self.add(f"{name}_conv", kind(inputs, filters, kernel, strides, bias=False))
        layer.same = kernel, strides

    def run(self, name, x):
        """Convolution and leaky ReLU."""
        return F.leaky_relu(self.convolved(f"{name}_conv", x), 0.2)

    def convolved(self, name, x):
        """The convolution alone."""
        layer = self.parts[name]
        kernel, strides = layer.same
        size = x.shape[-1]
        before, after = (kernel - strides) // 2, (kernel - strides + 1) // 2
        if isinstance(layer, nn.ConvTranspose2d):
            full = layer(x)
            return full[..., before : before + strides * size, before : before + strides * size]
        if before == after:
            return F.conv2d(x, layer.weight, None, strides, before)
        return layer(F.pad(x, (before, after, before, after)))

    def encoder_block(self, name, inputs, filters, strides=1, projected=False):
        """Makes the layers of `models.grdnet.encoder_block`."""
        if projected and self.residual:
            self.unit(f"{name}_shortcut", inputs, filters, 1)
        self.unit(f"{name}_1", inputs, filters, 3, strides)
        self.unit(f"{name}_2", filters, filters)

    def run_encoder_block(self, name, x):
        """Applies them."""
        shortcut = x
        if f"{name}_shortcut_conv" in self.parts:
            strides = self.parts[f"{name}_1_conv"].same[1]
            shortcut = self.run(f"{name}_shortcut", x[..., ::strides, ::strides])
        x = self.run(f"{name}_2", self.run(f"{name}_1", x))
        return x + shortcut if self.residual else x


class GRDNetTrunk(GRDNetPath):
    """Both encoders and D: features and, behind them, the latents or the logit."""

    def __init__(self, config, discriminates):
        super().__init__(config)
        self.stages, self.discriminates, self.dense = config.stages, discriminates, config.bottleneck == "dense"
        self.unit("stem", config.channels, config.width, 4)
        inputs = config.width
        for stage in range(config.stages):
            filters = config.width * 2**stage
            self.encoder_block(f"stage{stage}a", inputs, filters, 2 if stage else 1, projected=True)
            self.encoder_block(f"stage{stage}b", filters, filters)
            inputs = filters
        side = config.patch_size // 2 ** (config.stages - 1)
        if discriminates:
            self.add("output", nn.Linear(side * side * inputs, 1))
        elif self.dense:
            self.add("latents", nn.Linear(side * side * inputs, config.latent_size, bias=False))
        else:
            self.unit("latents", inputs, config.latent_channels, 4)

    def forward(self, x):
        x = self.run("stem", x)
        for stage in range(self.stages):
            x = self.run_encoder_block(f"stage{stage}b", self.run_encoder_block(f"stage{stage}a", x))
        flat = x.permute(0, 2, 3, 1).flatten(1)  # in Keras' order
        if self.discriminates:
            return self.parts["output"](flat), x
        return F.leaky_relu(self.parts["latents"](flat), 0.2) if self.dense else self.run("latents", x)


class GRDNetDecoder(GRDNetPath):
    """G_D: z to images in (0, 1)."""

    def __init__(self, config):
        super().__init__(config)
        self.stages, self.side = config.stages, config.patch_size // 2 ** (config.stages - 1)
        filters = config.width * 2 ** (config.stages - 1)
        self.dense = config.bottleneck == "dense"
        if self.dense:
            self.add("unfold", nn.Linear(config.latent_size, self.side * self.side * filters, bias=False))
        else:
            layer = self.add("unfold", nn.ConvTranspose2d(config.latent_channels, filters, 4, bias=False))
            layer.same = 4, 1
        for stage in reversed(range(config.stages)):
            filters = config.width * 2**stage
            narrower, strides = (filters // 2, 2) if stage else (filters, 1)
            self.unit(f"stage{stage}b_1", filters, filters, transposed=True)
            self.unit(f"stage{stage}b_2", filters, filters, transposed=True)
            if self.residual:
                self.unit(f"stage{stage}a_shortcut", filters, narrower, 1)
            self.unit(f"stage{stage}a_1", filters, filters, transposed=True)
            self.unit(f"stage{stage}a_2", filters, narrower, 3, strides, transposed=True)
        layer = self.add("image_conv", nn.ConvTranspose2d(config.width, config.channels, 4, bias=False))
        layer.same = 4, 1

    def forward(self, z):
        if self.dense:
            x = self.parts["unfold"](z).reshape(len(z), self.side, self.side, -1).permute(0, 3, 1, 2)
            x = F.leaky_relu(x, 0.2)
        else:
            x = self.convolved("unfold", z)
        for stage in reversed(range(self.stages)):
            inner = self.run(f"stage{stage}b_2", self.run(f"stage{stage}b_1", x))
            x = inner + x if self.residual else inner
            inner = self.run(f"stage{stage}a_2", self.run(f"stage{stage}a_1", x))
            if not self.residual:
                x = inner
                continue
            shortcut = self.run(f"stage{stage}a_shortcut", x)
            if stage:  # larger by zeros behind each row and column
                spread = shortcut.new_zeros(inner.shape)
                spread[..., ::2, ::2] = shortcut
                shortcut = spread
            x = inner + shortcut
        return torch.sigmoid(self.convolved("image_conv", x))


class GRDNetStep:
    """GRD-Net's step with loss case 2, its region on the target: D, then G and E, then the U-Net.

    Args:
        config: `models.grdnet.GRDNetConfig`.
        device, channels_last, dtype: as of `GANomalyStep`.
    """

    names = ("encoder", "decoder", "second_encoder", "discriminator", "segmentation")

    def __init__(self, config, device="cpu", channels_last=False, dtype=None):
        self.gamma, self.autocast = config.gamma, _autocast(device, dtype)
        self.encoder, self.second_encoder = (GRDNetTrunk(config, False) for _ in range(2))
        self.decoder, self.discriminator = GRDNetDecoder(config), GRDNetTrunk(config, True)
        self.segmentation = Segmentation(config.channels, config.width)
        _placed(self, device, channels_last)
        self.trained = {
            "d_loss": _parameters(self.discriminator),
            "g_loss": _parameters(self.encoder, self.decoder, self.second_encoder),
            "s_loss": _parameters(self.segmentation),
        }
        betas = (config.beta_1, config.beta_2)
        self.optimizers = {
            k: torch.optim.Adam(parameters, config.rate, betas) for k, parameters in self.trained.items()
        }
        self.weights = config.adversarial_weight, config.contextual_weight, config.encoder_weight
        self.similarity = Similarity(config.patch_size, device)

    def discriminator_loss(self, batch):
        """L_D."""
        with torch.no_grad(), self.autocast():
            made = self.decoder(self.encoder(batch["corrupted"]))
        with self.autocast():
            real, fake = self.discriminator(batch["images"])[0], self.discriminator(made)[0]
        real, fake = real.float(), fake.float()
        return 0.5 * (
            F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
            + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
        )

    def generative_loss(self, batch):
        """L_gan and X^."""
        images = batch["images"]
        with self.autocast():
            codes = self.encoder(batch["corrupted"])
            rebuilt = self.decoder(codes)
            again = self.second_encoder(rebuilt)
            with torch.no_grad():
                features = self.discriminator(images)[1]
            rebuilt_features = self.discriminator(rebuilt)[1]
        rebuilt = rebuilt.float()
        adversarial, contextual, encoding = self.weights
        total = (
            adversarial * F.mse_loss(rebuilt_features.float(), features.float())
            + contextual * (F.l1_loss(rebuilt, images) + 1.0 - self.similarity(images, rebuilt))
            + encoding * F.mse_loss(again.float(), codes.float())
        )
        return total, rebuilt

    def segmentation_loss(self, batch, rebuilt):
        """FL(A, M R)."""
        with self.autocast():
            logits = self.segmentation(torch.cat([rebuilt, batch["corrupted"]], 1))
        return focal_loss(logits.float().softmax(1)[:, 1:], batch["mask"] * batch["roi"], self.gamma)

    def step(self, batch):
        """One update of all networks; batch `{"images", "corrupted", "mask", "roi"}`. Returns the losses, tensors."""
        found = {"d_loss": self.discriminator_loss(batch)}
        self._update("d_loss", found["d_loss"])
        found["g_loss"], rebuilt = self.generative_loss(batch)
        self._update("g_loss", found["g_loss"])
        found["s_loss"] = self.segmentation_loss(batch, rebuilt.detach())
        self._update("s_loss", found["s_loss"])
        return {name: value.detach() for name, value in found.items()}

    def _update(self, name, loss):
        _apply(self.optimizers[name], self.trained[name], torch.autograd.grad(loss, self.trained[name]))


def images_first(batch, device="cpu", channels_last=False):
    """NumPy images `[B, H, W, C]`, alone or in a dict, as the steps here take them."""
    if isinstance(batch, dict):
        return {name: images_first(values, device, channels_last) for name, values in batch.items()}
    x = torch.from_numpy(batch).permute(0, 3, 1, 2).to(device)
    return x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _parameters(*networks):
    return [p for network in networks for p in network.parameters()]


def _apply(optimizer, parameters, gradients):
    for p, gradient in zip(parameters, gradients, strict=True):
        p.grad = gradient
    optimizer.step()


def _placed(owner, device, channels_last):
    """Moves the networks that `owner.names` lists to the device, in that layout, in training mode."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for name in owner.names:
        setattr(owner, name, getattr(owner, name).train().to(device).to(memory_format=layout))


def _autocast(device, dtype):
    return lambda: torch.autocast(device, dtype or torch.bfloat16, enabled=dtype is not None)
