"""What a server does before it listens: it answers itself, as many questions at a time as it takes.

What is made only when it is first used is there when /health says ok: the decoder's processes, kernels and their
scratch memory, the memory of a full batch. The first client waits for none of it, and memory grows little under load.
"""

import asyncio
import io
import logging

import numpy as np
import soundfile

from sonant.generate.sampling import GenerationConfig
from sonant.serve.answering.listener import TOGETHER_S
from sonant.serve.answering.questions import Finished, Question
from sonant.serve.conversations import worded
from sonant.serve.decode_worker import RATE_HZ
from sonant.serve.service import Service
from sonant.serve.untrusted_audio import as_part

log = logging.getLogger(__name__)

MOST_S = 5.0  # of a clip
TOKENS = 32  # of an answer
SAID = "one two three"


async def warm_up(service: Service) -> None:
    """Answers as many clips as are answered at a time, says an answer where there is a voice, and counts none of it.

    A model that fails at that is told in the log and served: what its clients ask may be something else.
    """
    service.answerer.start()
    try:
        questions = await _questions(service)
        await asyncio.gather(*(_answered(service, question) for question in questions))
    except Exception:
        log.warning("the model failed when it was tried before serving; what it is asked may fail too", exc_info=True)
    service.answerer.count_anew()


async def _questions(service: Service) -> list[Question]:
    settings = service.settings
    clip = _noise(min(MOST_S, TOGETHER_S / settings.max_rows, settings.max_audio_s))
    decode = service.decoder.decode
    heard = await asyncio.gather(
        *(decode(clip, max_duration_s=settings.max_audio_s) for _ in range(settings.decode_workers))
    )
    config = GenerationConfig(max_new_tokens=min(TOKENS, settings.max_new_tokens))
    # No two are the same: what is asked twice is heard once.
    lengths = np.linspace(len(heard[0]) // 2, len(heard[0]), settings.max_rows).astype(int).tolist()
    asked = [worded(settings.wordings.transcription, as_part(heard[0][:length])) for length in lengths]
    questions = [Question(conversation, config, fit=True) for conversation in asked]
    if service.has_voice:
        questions[-1] = Question(asked[-1], config, fit=True, spoken=True, answer=SAID)
    return questions


async def _answered(service: Service, question: Question) -> None:
    async for event in service.answerer.submit(question):
        if isinstance(event, Finished):
            return


def _noise(duration_s: float) -> bytes:
    samples = np.random.default_rng(0).normal(0.0, 0.02, round(duration_s * RATE_HZ)).astype(np.float32)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE_HZ, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
