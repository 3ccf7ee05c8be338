from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class LoraSettings(_message.Message):
    __slots__ = ("r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "bias", "use_rslora", "use_dora", "modules_to_save", "layers_to_transform", "init_lora_weights", "rank_pattern", "alpha_pattern")
    class RankPatternEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class AlphaPatternEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    R_FIELD_NUMBER: _ClassVar[int]
    LORA_ALPHA_FIELD_NUMBER: _ClassVar[int]
    LORA_DROPOUT_FIELD_NUMBER: _ClassVar[int]
    TARGET_MODULES_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_MODULES_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    USE_RSLORA_FIELD_NUMBER: _ClassVar[int]
    USE_DORA_FIELD_NUMBER: _ClassVar[int]
    MODULES_TO_SAVE_FIELD_NUMBER: _ClassVar[int]
    LAYERS_TO_TRANSFORM_FIELD_NUMBER: _ClassVar[int]
    INIT_LORA_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    RANK_PATTERN_FIELD_NUMBER: _ClassVar[int]
    ALPHA_PATTERN_FIELD_NUMBER: _ClassVar[int]
    r: int
    lora_alpha: int
    lora_dropout: float
    target_modules: _containers.RepeatedScalarFieldContainer[str]
    exclude_modules: _containers.RepeatedScalarFieldContainer[str]
    bias: str
    use_rslora: bool
    use_dora: bool
    modules_to_save: _containers.RepeatedScalarFieldContainer[str]
    layers_to_transform: _containers.RepeatedScalarFieldContainer[int]
    init_lora_weights: str
    rank_pattern: _containers.ScalarMap[str, int]
    alpha_pattern: _containers.ScalarMap[str, int]
    def __init__(self, r: _Optional[int] = ..., lora_alpha: _Optional[int] = ..., lora_dropout: _Optional[float] = ..., target_modules: _Optional[_Iterable[str]] = ..., exclude_modules: _Optional[_Iterable[str]] = ..., bias: _Optional[str] = ..., use_rslora: _Optional[bool] = ..., use_dora: _Optional[bool] = ..., modules_to_save: _Optional[_Iterable[str]] = ..., layers_to_transform: _Optional[_Iterable[int]] = ..., init_lora_weights: _Optional[str] = ..., rank_pattern: _Optional[_Mapping[str, int]] = ..., alpha_pattern: _Optional[_Mapping[str, int]] = ...) -> None: ...

class TrainerSettings(_message.Message):
    __slots__ = ("max_steps", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type", "warmup_steps", "optim", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "max_length", "packing", "gradient_checkpointing", "neftune_noise_alpha", "seed", "logging_steps", "eval_steps", "per_device_eval_batch_size", "eval_rows", "save_steps", "trainer", "save_seconds", "completion_only_loss", "assistant_only_loss", "early_stopping_patience", "beta", "sample_prompts", "sample_steps", "sample_max_tokens", "tensorboard")
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    NUM_TRAIN_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    PER_DEVICE_TRAIN_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_ACCUMULATION_STEPS_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    LR_SCHEDULER_TYPE_FIELD_NUMBER: _ClassVar[int]
    WARMUP_STEPS_FIELD_NUMBER: _ClassVar[int]
    OPTIM_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    ADAM_BETA1_FIELD_NUMBER: _ClassVar[int]
    ADAM_BETA2_FIELD_NUMBER: _ClassVar[int]
    ADAM_EPSILON_FIELD_NUMBER: _ClassVar[int]
    MAX_GRAD_NORM_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    PACKING_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_CHECKPOINTING_FIELD_NUMBER: _ClassVar[int]
    NEFTUNE_NOISE_ALPHA_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    LOGGING_STEPS_FIELD_NUMBER: _ClassVar[int]
    EVAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    PER_DEVICE_EVAL_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    EVAL_ROWS_FIELD_NUMBER: _ClassVar[int]
    SAVE_STEPS_FIELD_NUMBER: _ClassVar[int]
    TRAINER_FIELD_NUMBER: _ClassVar[int]
    SAVE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_ONLY_LOSS_FIELD_NUMBER: _ClassVar[int]
    ASSISTANT_ONLY_LOSS_FIELD_NUMBER: _ClassVar[int]
    EARLY_STOPPING_PATIENCE_FIELD_NUMBER: _ClassVar[int]
    BETA_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_PROMPTS_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_STEPS_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TENSORBOARD_FIELD_NUMBER: _ClassVar[int]
    max_steps: int
    num_train_epochs: float
    per_device_train_batch_size: int
    gradient_accumulation_steps: int
    learning_rate: float
    lr_scheduler_type: str
    warmup_steps: float
    optim: str
    weight_decay: float
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    max_grad_norm: float
    max_length: int
    packing: bool
    gradient_checkpointing: bool
    neftune_noise_alpha: float
    seed: int
    logging_steps: int
    eval_steps: int
    per_device_eval_batch_size: int
    eval_rows: int
    save_steps: int
    trainer: str
    save_seconds: float
    completion_only_loss: bool
    assistant_only_loss: bool
    early_stopping_patience: int
    beta: float
    sample_prompts: _containers.RepeatedScalarFieldContainer[str]
    sample_steps: int
    sample_max_tokens: int
    tensorboard: bool
    def __init__(self, max_steps: _Optional[int] = ..., num_train_epochs: _Optional[float] = ..., per_device_train_batch_size: _Optional[int] = ..., gradient_accumulation_steps: _Optional[int] = ..., learning_rate: _Optional[float] = ..., lr_scheduler_type: _Optional[str] = ..., warmup_steps: _Optional[float] = ..., optim: _Optional[str] = ..., weight_decay: _Optional[float] = ..., adam_beta1: _Optional[float] = ..., adam_beta2: _Optional[float] = ..., adam_epsilon: _Optional[float] = ..., max_grad_norm: _Optional[float] = ..., max_length: _Optional[int] = ..., packing: _Optional[bool] = ..., gradient_checkpointing: _Optional[bool] = ..., neftune_noise_alpha: _Optional[float] = ..., seed: _Optional[int] = ..., logging_steps: _Optional[int] = ..., eval_steps: _Optional[int] = ..., per_device_eval_batch_size: _Optional[int] = ..., eval_rows: _Optional[int] = ..., save_steps: _Optional[int] = ..., trainer: _Optional[str] = ..., save_seconds: _Optional[float] = ..., completion_only_loss: _Optional[bool] = ..., assistant_only_loss: _Optional[bool] = ..., early_stopping_patience: _Optional[int] = ..., beta: _Optional[float] = ..., sample_prompts: _Optional[_Iterable[str]] = ..., sample_steps: _Optional[int] = ..., sample_max_tokens: _Optional[int] = ..., tensorboard: _Optional[bool] = ...) -> None: ...
