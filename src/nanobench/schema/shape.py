"""A model's sizes."""

from dataclasses import dataclass

DTYPE_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, kw_only=True)
class GPTShape:
    """The sizes of a GPT, from which all costs follow. `n_params` counts a tied head once."""

    architecture: str
    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    vocab_size: int
    block_size: int
    n_params: int
    matmul_params: int | None = None
    """weights of all matmuls, lm_head included; None for a GPT-2, whose MLP is four times as wide as the residual stream"""
    lookup_params: int | None = None
    """parameters of tables that are only looked up, a row at a time; None: all parameters that are in no matmul"""
    mlp_matmuls: int = 2
    """matmuls of an MLP: 2, or 3 of a gated one, two of which read the same input"""
    head_width: int | None = None
    """width of one attention head; None: n_embd / n_head"""
    window: int | None = None
    """positions that a token attends to at most, its own included, in layers with a window; None: no layer has one"""
    windowed_layers: int | None = None
    """layers with a window; None: all of them, if `window` is given"""
    latent_width: int | None = None
    """values of a token that a cache keeps per layer instead of keys and values, which are computed from them (MLA)"""
    gate_params: int | None = None
    """weights of matmuls that belong to neither attention nor MLP, as of small gates; None: none"""
    lookup_width: int | None = None
    """values that a token looks up in tables; None: n_embd"""
    vocab_rows: int | None = None
    """rows of the lm_head with its padding; None: vocab_size"""

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head if self.head_width is None else self.head_width

    @property
    def attention_width(self) -> int:
        """Width of the output of all heads together; n_embd, unless heads have a width of their own."""
        return self.n_head * self.head_dim

    @property
    def qkv_width(self) -> int:
        """Width of a token's query, key and value together."""
        return (self.n_head + 2 * self.n_kv_head) * self.head_dim

    @property
    def kv_width(self) -> int:
        """Values that a token adds to a cache per layer: key and value, or the latent that both are computed from."""
        return 2 * self.n_kv_head * self.head_dim if self.latent_width is None else self.latent_width

    @property
    def attention_params(self) -> int:
        """Weights of the matmuls of one layer's attention; with a latent also those to it, and from it to key and value."""
        if self.latent_width is None:
            return self.n_embd * (self.qkv_width + self.attention_width)
        return 2 * self.n_embd * self.attention_width + self.latent_width * (self.n_embd + 2 * self.attention_width)

    @property
    def head_params(self) -> int:
        """Weights of lm_head, the matmul that gives the logits, tied to the embedding or not."""
        return self.n_embd * (self.vocab_rows or self.vocab_size)

    @property
    def block_params(self) -> int:
        """Weights of the matmuls in all blocks."""
        if self.matmul_params is not None:
            return self.matmul_params - self.head_params
        return self.n_layer * (self.attention_params + 8 * self.n_embd**2)

    @property
    def mlp_width(self) -> float:
        """Width of the MLP, or of one that has as many weights as this one, in as many matmuls."""
        params = (self.block_params - (self.gate_params or 0)) / self.n_layer - self.attention_params
        return params / self.n_embd / self.mlp_matmuls

    @property
    def read_params(self) -> int:
        """Parameters that every pass reads, whatever its tokens are: all except the tables that are looked up."""
        if self.lookup_params is not None:
            return self.n_params - self.lookup_params
        return min(self.n_params, self.block_params + self.head_params)

    def kv_bytes_per_token(self, dtype: str) -> int:
        """Bytes that one token of one row adds to a cache, also in layers with a window: layers * kv_width * itemsize."""
        return self.n_layer * self.kv_width * DTYPE_BYTES[dtype]

    def weight_bytes(self, dtype: str) -> int:
        """Bytes of all parameters."""
        return self.n_params * DTYPE_BYTES[dtype]
