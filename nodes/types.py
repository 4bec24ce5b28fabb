"""The pack's own link types; everything else is core's."""

from comfy_api.latest import io

CATEGORY = "Imagen GAN"

ImagenModel = io.Custom("IMAGEN_MODEL")  # host.HostedModel
ImagenCondition = io.Custom("IMAGEN_CONDITION")  # imagen_model.Condition
ImagenLatent = io.Custom("IMAGEN_LATENT")  # {"space": "z" | "w", "values": tensor, "seeds": tuple}
