"""Modality reliance: which of sound and picture a model listens to."""

from __future__ import annotations

from avbench.metrics import CLEAN, METRICS, NONE, SILENCE_AUDIO, SILENCE_VIDEO, Rows, Score
from avbench.metrics.intervals import mean, proportion
from avbench.metrics.outcomes import read

GAP = "XV - XA"


@METRICS.register("modality-reliance")
def modality_reliance(rows: Rows) -> list[Score]:
    """Tell a joint model from one that ignores a modality, which looks robust to attacks on it ([T21] section 4.2).

    - `silenced-accuracy`: accuracy on clean clips with audio or with video silenced.
    - `modality-gap`: accuracy under XV minus accuracy under XA, per attack and worst case; above 0 the model
      leans on audio, whose attack hurts it more. Only where a run has exactly one XA and one XV threat.
    - `audio-decides`: share of samples right when clean, right with audio alone and wrong with video alone;
      `video-decides` the other way round. A lucky guess on a silenced clip counts as right.

    >>> from avbench.metrics.sketch import sketch
    >>> cells = {"clean none": "1110", "clean silence-audio": "0110", "clean silence-video": "1100"}
    >>> for score in modality_reliance(sketch(cells)):
    ...     print(score.metric, score.attack, score.value)
    silenced-accuracy silence-audio 50.0
    silenced-accuracy silence-video 50.0
    audio-decides none 25.0
    video-decides none 25.0
    """
    if rows.multilabel:
        return []
    outcomes = read(rows)
    video_alone, audio_alone = outcomes.unattacked(SILENCE_AUDIO), outcomes.unattacked(SILENCE_VIDEO)
    scores = [
        proportion(("silenced-accuracy", CLEAN, attack), right)
        for attack, right in ((SILENCE_AUDIO, video_alone), (SILENCE_VIDEO, audio_alone))
        if right is not None
    ]
    if video_alone is not None and audio_alone is not None:
        clean = outcomes.clean
        scores.append(proportion(("audio-decides", CLEAN, NONE), clean & audio_alone & ~video_alone))
        scores.append(proportion(("video-decides", CLEAN, NONE), clean & video_alone & ~audio_alone))
    for attack, right in outcomes.by_attack(("XV", "XA")).items():
        xv, xa = 100.0 * right.T
        scores.append(mean(("modality-gap", GAP, attack), xv - xa, 100, "points"))
    return scores
