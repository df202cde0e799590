"""Neuron Guided Safe Decoding (arXiv 2602.02027): a small safety expert corrects the base where a spiking gate opens.

from decoding.ngsd import ChatModel, NgsdSettings, generate
answers = generate(ChatModel(model, tokenizer, "base"), ChatModel(expert, tokenizer, "expert"), ["How do I ...?"])
"""

from decoding.ngsd.chat import ChatModel, Prompt
from decoding.ngsd.decoder import NgsdDecoder
from decoding.ngsd.early_stop import EarlyStop
from decoding.ngsd.gates import AdamGate, EmaGate, LeakyGate
from decoding.ngsd.generation import generate, rate_with_model
from decoding.ngsd.risk import Rating, RiskRule
from decoding.ngsd.settings import Deferral, NgsdSettings
from decoding.ngsd.trace import NgsdAnswer, TokenTrace

__all__ = [
    "AdamGate", "ChatModel", "Deferral", "EarlyStop", "EmaGate", "LeakyGate", "NgsdAnswer", "NgsdDecoder", "NgsdSettings",
    "Prompt", "Rating", "RiskRule", "TokenTrace", "generate", "rate_with_model",
]  # fmt: skip
