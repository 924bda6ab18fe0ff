"""Training steps as a tutorial, or the method's author, writes them in TensorFlow, to be timed beside ours.

The networks, weights, losses and optimisers are those of the detector that is passed; the order of work and the ops
are not: gradient tapes that watch everything, TensorFlow's own convolutions and SSIM. `tests/test_textbook.py` finds
equal losses.
"""

import tensorflow as tf

from ganspect.models import losses


def ganomaly_two_tapes(detector, images):
    """One forward pass under two tapes, as in TensorFlow's DCGAN tutorial."""
    with tf.GradientTape() as g_tape, tf.GradientTape() as d_tape:
        g_loss, d_loss = _ganomaly_losses(detector, images)
    _update(detector.optimizers["generator"], g_tape, g_loss, detector.learners())
    _update(detector.optimizers["discriminator"], d_tape, d_loss, [detector.discriminator])
    return {"g_loss": g_loss, "d_loss": d_loss}


def ganomaly_in_turn(detector, images):
    """D on images and on what G makes, then G through the new D, as in Keras' DCGAN tutorial."""
    made = detector.decoder(detector.encoder(images, training=True), training=True)
    with tf.GradientTape() as tape:
        real, _ = detector.discriminator(images, training=True)
        fake, _ = detector.discriminator(made, training=True)
        d_loss = 0.5 * (losses.binary_cross_entropy(real, 1.0) + losses.binary_cross_entropy(fake, 0.0))
    _update(detector.optimizers["discriminator"], tape, d_loss, [detector.discriminator])
    with tf.GradientTape() as tape:
        g_loss, _ = _ganomaly_losses(detector, images)
    _update(detector.optimizers["generator"], tape, g_loss, detector.learners())
    return {"g_loss": g_loss, "d_loss": d_loss}


def _ganomaly_losses(detector, images):
    c = detector.config
    codes = detector.encoder(images, training=True)
    rebuilt = detector.decoder(codes, training=True)
    again = detector.second_encoder(rebuilt, training=True)
    real, features = detector.discriminator(images, training=True)
    fake, rebuilt_features = detector.discriminator(rebuilt, training=True)
    g_loss = (
        c.adversarial_weight * losses.feature_matching(features, rebuilt_features)
        + c.contextual_weight * losses.mean_absolute_error(images, rebuilt)
        + c.encoder_weight * losses.mean_squared_error(codes, again)
    )
    return g_loss, 0.5 * (losses.binary_cross_entropy(real, 1.0) + losses.binary_cross_entropy(fake, 0.0))


def draem(detector, batch):
    """One tape, `tf.image.ssim`."""
    images, corrupted = batch["images"], batch["corrupted"]
    with tf.GradientTape() as tape:
        rebuilt = detector.reconstructive(corrupted, training=True)
        logits = detector.segmentation(tf.concat([rebuilt, corrupted], -1), training=True)
        marked = tf.nn.softmax(logits)[..., 1:]
        squared = tf.reduce_mean(tf.square(images - rebuilt))
        similarity = tf.reduce_mean(tf.image.ssim(images, rebuilt, max_val=1.0))
        focal = losses.focal_loss(marked, batch["mask"], detector.config.gamma)
        loss = squared + 1.0 - similarity + focal
    _update(detector.optimizers["networks"], tape, loss, [detector.reconstructive, detector.segmentation])
    return {"loss": loss}


def cbigan_critic(detector, images):
    """A step of CBiGAN's author that trains D: all networks and all losses of both sides, then the gradients of D's."""
    c, count = detector.config, detector.config.batch_size
    images = images[:count]
    z, epsilon = detector.draw(count)
    with tf.GradientTape() as _, tf.GradientTape() as d_tape:
        made = detector.generator(z, training=True)
        codes = detector.encoder(images, training=True)
        rebuilt = detector.generator(codes, training=True)
        again = detector.encoder(made, training=True)
        real, _ = detector.discriminator([images, codes], training=True)
        fake, _ = detector.discriminator([made, z], training=True)
        wide = epsilon[:, :, None, None]
        between, between_codes = wide * images + (1 - wide) * made, epsilon * codes + (1 - epsilon) * z
        with tf.GradientTape() as inner:
            inner.watch([between, between_codes])
            score, _ = detector.discriminator([between, between_codes], training=True)
        slopes = inner.gradient(score, [between, between_codes])
        flat = tf.concat([tf.reshape(g, (count, -1)) for g in slopes], 1)
        penalty = tf.reduce_mean(tf.square(tf.sqrt(tf.reduce_sum(tf.square(flat), 1) + 1e-12) - 1.0))
        d_loss = tf.reduce_mean(fake - real) + c.penalty_weight * penalty
        l_r = tf.reduce_mean(tf.reduce_sum(tf.abs(images - rebuilt), (1, 2, 3)))
        l_z = tf.reduce_mean(tf.reduce_sum(tf.abs(z - again), 1))
        eg_loss = (1 - c.alpha) * tf.reduce_mean(real - fake) + c.alpha * (l_r + l_z)
    _update(detector.optimizers["discriminator"], d_tape, d_loss, [detector.discriminator])
    return {"d_loss": d_loss, "penalty": penalty, "eg_loss": eg_loss, "reconstruction_l1": l_r, "latent_l1": l_z}


def _update(optimizer, tape, loss, networks):
    variables = [v for network in networks for v in network.trainable_variables]
    optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))


STEPS = {
    "ganomaly": {"Keras, two tapes": ganomaly_two_tapes, "Keras, in turn": ganomaly_in_turn},
    "draem": {"Keras, one tape": draem},
    "cbigan_critic": {"author's order": cbigan_critic},
}
