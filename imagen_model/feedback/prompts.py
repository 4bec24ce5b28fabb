"""Fixed prompts of everyday things for fine-tuning and for the A/B test."""

PROMPTS = tuple(
    """red apple|banana|bunch of grapes|slice of pizza|loaf of bread|cup of coffee|ice cream cone
birthday cake|carrot|mushroom|cat face|dog|horse|cow|elephant|penguin|owl|fish|octopus|butterfly
spider|turtle|snake|rabbit|fox|sunflower|rose|cactus|palm tree|fallen leaf|full moon|sun with face
rainbow|snowflake|cloud with rain|fire|ocean wave|mountain|volcano|house|castle|tent|lighthouse
car|bus|bicycle|train|airplane|rocket|sailboat|anchor|soccer ball|guitar|trumpet|drum|book|pencil
scissors|key|lock|hammer|light bulb|camera|telephone|alarm clock|umbrella|hat|shoe|glasses|crown
gem stone|gift|balloon|heart|star|flag|man|woman|baby|police officer|cook|astronaut|wizard|ghost
robot|clown face|smiling face|crying face|angry face|thumbs up|waving hand|footprints""".replace(
        "\n", "|"
    ).split("|")
)
