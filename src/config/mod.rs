//! Reads the TOML configs of both programs: plain data, checked whole before anything runs.
//!
//! A file is read, `--set key=value` overrides are applied, the tree is compared with the JSON
//! Schema that the structs generate (so that *all* faults are reported at once, with the nearest
//! known key), and the values are checked against each other by [`Config::validate`]: in the same
//! breath, whatever could not be read.

mod auto;
mod cache;
mod change;
mod check;
mod data;
mod device;
mod fault;
mod features;
mod images;
mod load;
mod loss;
mod mend;
mod mixture;
mod name;
mod optim;
mod outline;
mod responses;
mod returned;
mod schedule;
mod shape;
mod shuffle;
mod student;
mod sweep;
mod teacher;
mod tokens;
mod tracking;
mod train;
mod validation;

pub use auto::NumberOrAuto;
pub use cache::{
    CacheConfig, DEFAULT_CURVE_STEP, DEFAULT_FIT_SAMPLES, DEFAULT_LEVEL, DEFAULT_MAX_K,
    DEFAULT_SHARD_SAMPLES, DEFAULT_STEP, DEFAULT_STEP_GROWTH, HeadConfig, StorageConfig, StorageForm,
    TailConfig, ValueEncoding,
};
pub use change::{ChangeConfig, ChangeShape, Setting};
#[cfg(feature = "torch")]
pub(crate) use check::nearest;
pub use data::{DatasetConfig, Layout, PreprocessConfig};
pub use device::DeviceName;
pub use fault::{ConfigError, Fault};
pub use features::{
    FEATURES_LAYER, FeatureConfig, FeatureLossConfig, FeatureLossKind, FeaturePool, FeatureValues,
    MAX_FEATURE_NAME, is_feature_name,
};
pub use images::{
    AugmentConfig, DEFAULT_CROP_RATIO, DEFAULT_CROP_SCALE, DEFAULT_VIEWS, FolderConfig, Interpolation,
    RandomResizedCrop,
};
pub use load::{Config, load, load_str};
pub use loss::{
    DistConfig, DkdConfig, LossConfig, LossWeights, Needs, NkdConfig, RankingConfig, TermWeights,
};
pub use mixture::{MixtureAverage, MixtureConfig};
pub use name::Name;
pub use optim::{GroupConfig, OptimizerConfig};
pub use outline::outline;
pub use responses::{ResponsesConfig, Tokens};
pub use returned::ReturnedLossConfig;
pub use schedule::{Per, ScheduleConfig};
pub use shuffle::ShuffleConfig;
pub use student::{LlamaConfig, ResnetConfig, Stem, StudentConfig};
pub use sweep::{Keys, Point, SweepConfig, load_sweep};
pub use teacher::{
    DEFAULT_TEACHER_BATCH, DEFAULT_TEACHER_CHUNK, DEFAULT_TOKEN_BATCH, ExecutionProvider, GraphOptimization,
    OutputKind, TeacherConfig, TeacherKind,
};
pub use tokens::{
    ChatConfig, DEFAULT_MESSAGES, DEFAULT_ROW_LENGTH, DEFAULT_TEXT_FIELD, JsonlConfig, Packing,
    ParquetConfig, Part, RowsConfig, SplitConfig, TextConfig, TokenType, TokensConfig,
};
pub use tracking::{MlflowConfig, TrackingConfig, problem_of_uri};
pub use train::{InitConfig, InitLayers, Precision, TrainConfig, TrainSection};
pub use validation::{Better, CheckpointConfig, DEFAULT_METRIC_TIMEOUT, MetricConfig, ValidationConfig};
