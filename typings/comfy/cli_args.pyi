class Options:
    disable_metadata: bool

args: Options
