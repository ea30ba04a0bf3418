"""Models of text, T1 to T13, and what the transformers library builds from a configuration alone."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForQuestionAnswering,
    MarianConfig,
    MarianMTModel,
    RobertaConfig,
    RobertaForQuestionAnswering,
    RobertaForSequenceClassification,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
)

from m4c.models.graph import Graph
from m4c.operator_reports.zoo.network import Ids, Stack, graph

LENGTH = 128
"""Tokens of a text."""

ROBERTA = {
    "vocab_size": 50265,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}
"""The configuration of roberta-base, and of CodeBERT, where it is not the library's own."""


def _logits(model: Any, tokens: Tensor) -> Tensor:
    scores: Tensor = model(input_ids=tokens).logits
    return scores


def _spans(model: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    out = model(input_ids=tokens)
    return out.start_logits, out.end_logits


def _seq2seq(model: Any, tokens: Tensor, written: Tensor) -> Tensor:
    scores: Tensor = model(input_ids=tokens, decoder_input_ids=written, use_cache=False).logits
    return scores


def _translated(name: str, model: nn.Module) -> tuple[Graph, ...]:
    """Return an encoder and decoder as one graph: a text, and what is written so far."""
    return (graph(name, model, _seq2seq, tokens=Ids((1, LENGTH)), written=Ids((1, 32))),)


class WordRnn(nn.Module):
    """The next word from the five before, by a recurrent layer of five units (the Penn Treebank exercise of many courses)."""

    def __init__(self, words: int = 10000, width: int = 128, units: int = 5) -> None:
        """Make embedding, recurrence and output."""
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.rnn = nn.RNN(width, units, batch_first=True)
        self.out = nn.Linear(units, words, bias=False)
        self.bias = nn.Parameter(torch.ones(words))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the scores (batch, words) after ``tokens`` (batch, steps)."""
        states = self.rnn(self.embed(tokens))[0]
        scores: Tensor = self.out(states[:, -1]) + self.bias
        return scores


def word_rnn() -> tuple[Graph, ...]:
    """Build T1."""
    return (graph("rnn", WordRnn(), tokens=Ids((1, 5))),)


def roberta_qa() -> tuple[Graph, ...]:
    """Build RoBERTa-base (Liu et al. 2019) with an output for spans."""
    return (
        graph(
            "roberta", RobertaForQuestionAnswering(RobertaConfig(**ROBERTA)), _spans, tokens=Ids((1, LENGTH))
        ),
    )


def roberta(labels: int) -> tuple[Graph, ...]:
    """Build RoBERTa-base with an output for ``labels``."""
    model = RobertaForSequenceClassification(RobertaConfig(**ROBERTA, num_labels=labels))
    return (graph("roberta", model, _logits, tokens=Ids((1, LENGTH))),)


def araelectra() -> tuple[Graph, ...]:
    """Build AraELECTRA-base (Antoun et al. 2021) with an output for spans."""
    config = ElectraConfig(
        vocab_size=64000,
        embedding_size=768,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
    )
    return (graph("electra", ElectraForQuestionAnswering(config), _spans, tokens=Ids((1, LENGTH))),)


def marian() -> tuple[Graph, ...]:
    """Build opus-mt-en-de (Junczys-Dowmunt et al. 2018; Tiedemann 2020)."""
    config = MarianConfig(
        vocab_size=58101,
        d_model=512,
        encoder_layers=6,
        decoder_layers=6,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=2048,
        decoder_ffn_dim=2048,
        max_position_embeddings=512,
        activation_function="swish",
        scale_embedding=True,
        pad_token_id=58100,
        decoder_start_token_id=58100,
    )
    return _translated("marian", MarianMTModel(config))


def bert() -> tuple[Graph, ...]:
    """Build BERT-base uncased (Devlin et al. 2019) for 4 labels."""
    return (
        graph(
            "bert", BertForSequenceClassification(BertConfig(num_labels=4)), _logits, tokens=Ids((1, LENGTH))
        ),
    )


def distilbert() -> tuple[Graph, ...]:
    """Build DistilBERT-base (Sanh et al. 2019) for 2 labels."""
    model = DistilBertForSequenceClassification(DistilBertConfig(num_labels=2))
    return (graph("distilbert", model, _logits, tokens=Ids((1, LENGTH))),)


def flan_t5_large() -> tuple[Graph, ...]:
    """Build FLAN-T5-large (Chung et al. 2022; T5 1.1: gated GELU, output not tied)."""
    config = T5Config(
        vocab_size=32128,
        d_model=1024,
        d_kv=64,
        d_ff=2816,
        num_layers=24,
        num_heads=16,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config)
    model.lm_head.weight = nn.Parameter(
        torch.empty(32128, 1024)
    )  # the library ties it always, the published model does not
    return _translated("t5", model)


def codet5() -> tuple[Graph, ...]:
    """Build CodeT5-base (Wang et al. 2021)."""
    config = T5Config(
        vocab_size=32100,
        d_model=768,
        d_kv=64,
        d_ff=3072,
        num_layers=12,
        num_heads=12,
        decoder_start_token_id=0,
    )
    return _translated("t5", T5ForConditionalGeneration(config))


def bart() -> tuple[Graph, ...]:
    """Build bart-large-cnn (Lewis et al. 2020)."""
    return _translated("bart", BartForConditionalGeneration(BartConfig(vocab_size=50264)))


class CodeBert(nn.Module):
    """CodeBERT as encoder and a plain decoder of six layers, as CodeXGLUE writes code with it (Lu et al. 2021)."""

    def __init__(self) -> None:
        """Make both; the output shares the words' matrix."""
        super().__init__()
        self.encoder = RobertaModel(RobertaConfig(**ROBERTA))
        self.decoder = Stack([nn.TransformerDecoderLayer(768, 12, 2048) for _ in range(6)])
        self.dense = nn.Linear(768, 768)
        self.out = nn.Linear(768, 50265, bias=False)
        self.out.weight = self.encoder.embeddings.word_embeddings.weight
        self.register_buffer("causal", nn.Transformer.generate_square_subsequent_mask(32), persistent=False)

    def forward(self, tokens: Tensor, written: Tensor) -> Tensor:
        """Return scores (batch, written, words)."""
        memory = self.encoder(input_ids=tokens).last_hidden_state.transpose(0, 1)
        words = self.encoder.embeddings(input_ids=written).transpose(0, 1)
        states = self.decoder(words, memory, tgt_mask=self.causal, tgt_is_causal=True)
        scores: Tensor = self.out(torch.tanh(self.dense(states)).transpose(0, 1))
        return scores


def codebert() -> tuple[Graph, ...]:
    """Build T13."""
    return (graph("codebert", CodeBert(), tokens=Ids((1, LENGTH)), written=Ids((1, 32))),)
