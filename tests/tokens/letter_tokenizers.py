from tokenizers import Tokenizer, models, pre_tokenizers

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def letter_tokenizer(*special: str) -> Tokenizer:
    """Ids: the special tokens, then [UNK], then the letters a to z; a token is one letter."""
    vocabulary = {token: at for at, token in enumerate([*special, "[UNK]", *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(special))
    return tokenizer
