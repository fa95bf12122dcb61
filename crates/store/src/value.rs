//! Parameters and rows of either engine. Records use three column types only (64-bit integer, text,
//! bytes), so that queries are written once and mean the same on both.

use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Postgres, Sqlite};

use atoll_model::address::NetworkId;
use atoll_model::{AppName, MachineId, MachineVersion, NodeName, OrgSlug, RegionCode};

use crate::StoreError;

/// A bound parameter. A null keeps its type, which PostgreSQL insists on.
#[derive(Clone, Debug)]
pub(crate) enum Param {
    Integer(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
}

/// The parameters of a statement, in order: `params![name, 7, region]`.
macro_rules! params {
    ($($value:expr),* $(,)?) => { vec![$($crate::value::Param::from($value)),*] };
}
pub(crate) use params;

/// A type stored as one kind of parameter; its `Option` comes along.
trait AsParam {
    fn as_param(value: Option<Self>) -> Param
    where
        Self: Sized;
}

impl<T: AsParam> From<T> for Param {
    fn from(value: T) -> Self {
        T::as_param(Some(value))
    }
}

impl<T: AsParam> From<Option<T>> for Param {
    fn from(value: Option<T>) -> Self {
        T::as_param(value)
    }
}

macro_rules! as_param {
    ($($kind:ident: |$value:ident: $type:ty| $convert:expr;)*) => {
        $(impl AsParam for $type {
            fn as_param(value: Option<Self>) -> Param {
                Param::$kind(value.map(|$value: $type| $convert))
            }
        })*
    };
}

as_param! {
    Integer: |value: i64| value;
    // Lossless both ways; times, epochs and counters never reach the sign bit.
    Integer: |value: u64| value.cast_signed();
    Integer: |value: u32| i64::from(value);
    Integer: |value: bool| i64::from(value);
    Integer: |value: NetworkId| i64::from(value.0);
    Text: |value: &str| value.to_owned();
    Text: |value: String| value;
    Text: |value: &String| value.clone();
    Text: |value: &AppName| value.to_string();
    Text: |value: &NodeName| value.to_string();
    Text: |value: &OrgSlug| value.to_string();
    Text: |value: MachineId| value.to_string();
    Text: |value: MachineVersion| value.to_string();
    Text: |value: RegionCode| value.to_string();
    Bytes: |value: &[u8]| value.to_vec();
    Bytes: |value: Vec<u8>| value;
}

/// A type that is stored as a short word of its own.
macro_rules! stored_word {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant),*
        }

        impl $name {
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::value::UnknownWord;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err($crate::value::UnknownWord { given: text.to_owned() }),
                }
            }
        }
    };
}
pub(crate) use stored_word;

/// A stored word that this version does not know.
#[derive(Debug, thiserror::Error)]
#[error("{given:?} is not a known word")]
pub struct UnknownWord {
    pub given: String,
}

/// A row of either engine.
pub(crate) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl Row {
    fn get<T>(&self, column: &'static str) -> Result<T, StoreError>
    where
        T: for<'r> sqlx::Decode<'r, Sqlite> + sqlx::Type<Sqlite>,
        T: for<'r> sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres>,
    {
        use sqlx::Row as _;
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
        .map_err(|source| StoreError::Decode { column, source: source.into() })
    }

    /// The columns that are not null, by name; bytes as base64 in an object of their own.
    pub(crate) fn to_json(&self) -> Result<Map<String, Value>, StoreError> {
        use sqlx::{Column as _, Row as _, TypeInfo as _, ValueRef as _};
        macro_rules! convert {
            ($row:expr) => {{
                let mut out = Map::new();
                for column in $row.columns() {
                    let failed = |source| StoreError::Decode { column: "(any)", source };
                    let (name, index) = (column.name(), column.ordinal());
                    let value = $row.try_get_raw(index).map_err(|error| failed(error.into()))?;
                    if value.is_null() {
                        continue;
                    }
                    let kind = value.type_info().name().to_owned();
                    let json = match kind.as_str() {
                        "INTEGER" | "INT8" => $row.try_get::<i64, _>(index).map(Value::from),
                        "TEXT" => $row.try_get::<String, _>(index).map(Value::from),
                        "BLOB" | "BYTEA" => $row
                            .try_get::<Vec<u8>, _>(index)
                            .map(|bytes| serde_json::json!({ "base64": STANDARD.encode(bytes) })),
                        _ => return Err(failed(UnknownWord { given: kind }.into())),
                    };
                    out.insert(name.to_owned(), json.map_err(|error| failed(error.into()))?);
                }
                Ok(out)
            }};
        }
        match self {
            Self::Sqlite(row) => convert!(row),
            Self::Postgres(row) => convert!(row),
        }
    }

    pub(crate) fn integer(&self, column: &'static str) -> Result<i64, StoreError> {
        self.get(column)
    }

    pub(crate) fn unsigned(&self, column: &'static str) -> Result<u64, StoreError> {
        Ok(self.get::<i64>(column)?.cast_unsigned())
    }

    pub(crate) fn unsigned_opt(&self, column: &'static str) -> Result<Option<u64>, StoreError> {
        Ok(self.get::<Option<i64>>(column)?.map(i64::cast_unsigned))
    }

    pub(crate) fn small(&self, column: &'static str) -> Result<u32, StoreError> {
        u32::try_from(self.integer(column)?).map_err(|source| StoreError::Decode { column, source: source.into() })
    }

    pub(crate) fn small_opt(&self, column: &'static str) -> Result<Option<u32>, StoreError> {
        let small = |value: u64| u32::try_from(value);
        self.unsigned_opt(column)?
            .map(small)
            .transpose()
            .map_err(|source| StoreError::Decode { column, source: source.into() })
    }

    pub(crate) fn flag(&self, column: &'static str) -> Result<bool, StoreError> {
        Ok(self.integer(column)? != 0)
    }

    pub(crate) fn text(&self, column: &'static str) -> Result<String, StoreError> {
        self.get(column)
    }

    pub(crate) fn text_opt(&self, column: &'static str) -> Result<Option<String>, StoreError> {
        self.get(column)
    }

    pub(crate) fn bytes(&self, column: &'static str) -> Result<Vec<u8>, StoreError> {
        self.get(column)
    }

    pub(crate) fn bytes_opt(&self, column: &'static str) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(column)
    }

    /// A text column that holds an id, name or word.
    pub(crate) fn parsed<T>(&self, column: &'static str) -> Result<T, StoreError>
    where
        T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
    {
        self.text(column)?.parse().map_err(|source: T::Err| StoreError::Decode { column, source: source.into() })
    }

    pub(crate) fn parsed_opt<T>(&self, column: &'static str) -> Result<Option<T>, StoreError>
    where
        T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
    {
        let parse = |text: String| text.parse::<T>();
        self.text_opt(column)?
            .map(parse)
            .transpose()
            .map_err(|source| StoreError::Decode { column, source: source.into() })
    }

    pub(crate) fn json<T: DeserializeOwned>(&self, column: &'static str) -> Result<T, StoreError> {
        serde_json::from_str(&self.text(column)?).map_err(|source| StoreError::Decode { column, source: source.into() })
    }

    pub(crate) fn json_opt<T: DeserializeOwned>(&self, column: &'static str) -> Result<Option<T>, StoreError> {
        self.text_opt(column)?
            .map(|text| serde_json::from_str(&text))
            .transpose()
            .map_err(|source| StoreError::Decode { column, source: source.into() })
    }
}

/// The parameter for a value as [`Row::to_json`] writes it; `None` for anything else.
pub(crate) fn param_from_json(value: &Value) -> Option<Param> {
    match value {
        Value::Number(number) => number.as_i64().map(Param::from),
        Value::String(text) => Some(Param::from(text)),
        Value::Object(object) => STANDARD.decode(object.get("base64")?.as_str()?).ok().map(Param::from),
        _ => None,
    }
}

/// The JSON text of a value that is kept in a text column.
pub(crate) fn json_text<T: serde::Serialize>(what: &'static str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|source| StoreError::Encode { what, source })
}
