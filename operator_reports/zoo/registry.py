"""The 50 tasks of the paper, each with its task-specific model (Table 3), and what builds it here.

Sizes are in 10⁶ parameters, as the paper prints them. ``differs`` says why ours is more than a tenth off; ``proxy`` says
why the operators counted may not be those of the model that the paper names; ``host`` says what a task needs beside its graphs.
"""

from dataclasses import dataclass

HOST_REGIONS = "choosing regions and cutting them out: top-k, NMS, RoIAlign"
UNKNOWN = "no published model of the paper's size is known"


@dataclass(frozen=True, slots=True)
class Entry:
    """One task. ``builder`` is ``module:function`` in this package, with numbers as arguments after commas."""

    task: str
    model: str
    builder: str
    paper: float
    differs: str = ""
    proxy: str = ""
    host: str = ""


ENTRIES = (
    Entry("T1", "RNN language model", "text:word_rnn", 1.4),
    Entry("T2", "RoBERTa", "text:roberta_qa", 37, "RoBERTa-base; no published RoBERTa has 37 M"),
    Entry("T3", "AraELECTRA", "text:araelectra", 136),
    Entry("T4", "Transformer", "text:marian", 110, f"opus-mt-en-de; {UNKNOWN}"),
    Entry("T5", "RoBERTa", "text:roberta,20", 125),
    Entry("T6", "RoBERTa", "text:roberta,28", 125),
    Entry("T7", "RoBERTa", "text:roberta,3", 125),
    Entry("T8", "BERT", "text:bert", 110),
    Entry("T9", "DistilBERT", "text:distilbert", 67),
    Entry("T10", "FLAN-T5", "text:flan_t5_large", 801),
    Entry("T11", "BART", "text:bart", 400),
    Entry("T12", "CodeT5-base", "text:codet5", 220),
    Entry("T13", "CodeBERT", "text:codebert", 125, "the paper's figure is that of the encoder alone"),
    Entry("T14", "Libra R-CNN", "detection:libra_rcnn", 42, host=HOST_REGIONS),
    Entry(
        "T15",
        "X-Paste",
        "detection:x_paste",
        952,
        "952 fits its megabytes in float32: 238 M",
        proxy="Swin-L and the heads of CenterNet2 by their papers, never held against the released detector",
        host=HOST_REGIONS,
    ),
    Entry("T16", "ResNet50-arcface", "resnet:arcface", 31.7),
    Entry("T17", "Real-ESRGAN", "cnn:real_esrgan", 16.7),
    Entry("T18", "StyleFlow", "flows:styleflow", 16.8),
    Entry("T19", "DeepLabV3+", "resnet:deeplab,50,150", 40),
    Entry(
        "T20",
        "DeepLabV3+",
        "resnet:deeplab,101,21",
        40,
        "r101-d8, the form that is published for this data set",
    ),
    Entry("T21", "CLIP", "vision:clip,2", 438),
    Entry("T22", "GFNet", "vision:gfnet,100", 54),
    Entry("T23", "ResNet-152", "resnet:resnet152", 93, "ResNet-152 has 60.2 M"),
    Entry("T24", "MicronNet", "cnn:micronnet", 0.43),
    Entry(
        "T25",
        "MSINet",
        "flows:msinet",
        2.3,
        "inner sizes of the cells are ours",
        proxy="which interaction stands in which cell is a choice of ours among those of the paper",
    ),
    Entry("T26", "MiVOLO-D1", "vision:mivolo", 27.4),
    Entry("T27", "CLIP", "vision:clip,211", 438),
    Entry("T28", "ViTPose", "vision:vitpose", 44, "ViTPose-B; S has 24.3 M, and none has 44"),
    Entry("T29", "SlowFast", "vision:slowfast", 66),
    Entry("T30", "SASNet", "cnn:sasnet", 37),
    Entry("T31", "MDETR", "multimodal:mdetr", 170),
    Entry("T32", "CTC + attention", "speech:crdnn_asr", 120),
    Entry(
        "T33",
        "Transformer",
        "speech:transformer_slu",
        39,
        proxy="convolutions and 12 layers of width 512: one choice that fits the paper's size",
    ),
    Entry("T34", "CRDNN", "speech:crdnn_slu", 26.5),
    Entry("T35", "ECAPA-TDNN", "speech:ecapa_tdnn", 16, "1024 channels; 512 have 6.2 M, and neither has 16"),
    Entry("T36", "ACDNet", "cnn:acdnet", 4.74),
    Entry("T37", "cnn-trad-fpool3", "cnn:keyword_spotter", 0.93),
    Entry("T38", "MLP", "cnn:mlp", 0.28),
    Entry("T39", "LIMU-BERT", "sensing:limu_bert", 0.18),
    Entry("T40", "LIMU-BERT", "sensing:limu_bert", 0.18),
    Entry("T41", "Transformer TTS", "multimodal:tts", 54),
    Entry("T42", "Transformer", "speech:captioner", 8.91),
    Entry("T43", "Transformer", "speech:captioner", 8.91),
    *(
        Entry(
            task,
            "LSTM",
            "multimodal:image_captioner",
            188,
            UNKNOWN,
            proxy="Show, Attend and Tell over ResNet-101; which captioner is meant is not known",
        )
        for task in ("T44", "T45")
    ),
    *(Entry(task, "CCLM", "multimodal:cclm", 500, "BEiT-B and XLM-R-B") for task in ("T46", "T47")),
    Entry("T48", "Wav2CLIP", "multimodal:wav2clip", 466, "ResNet-18, CLIP ViT-B/32's vision, VQGAN"),
    *(
        Entry(
            task, "MUTAN", "multimodal:mutan", 218, "ResNet-152, skip-thoughts' GRU and the published sizes"
        )
        for task in ("T49", "T50")
    ),
)
"""All tasks, in the order of the paper's Table 3."""

BUILDERS = tuple(dict.fromkeys(entry.builder for entry in ENTRIES))
"""Every builder once."""
