//! Parts of lists: what callers ask for, and how the next part is asked for where the answer is a bare
//! array.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use atoll_store::{Page, PageRequest};

use crate::describe::{Answer, Operation};
use crate::error::{ApiError, ApiResult};

/// The part that is wanted; `None`: everything at once.
pub fn wanted(limit: Option<u32>, cursor: Option<String>, most: u32) -> ApiResult<Option<PageRequest>> {
    let cursor = cursor.filter(|cursor| !cursor.is_empty());
    match limit {
        Some(limit) if (1..=most).contains(&limit) => Ok(Some(PageRequest { limit: Some(limit), cursor })),
        Some(_) => Err(ApiError::invalid(format!("invalid_argument: limit must be between 1 and {most}"))),
        None if cursor.is_some() => Err(ApiError::invalid("invalid_argument: a cursor is read with a limit only")),
        None => Ok(None),
    }
}

/// The largest part of a list of machines.
pub const MAX_MACHINES: u32 = 1000;

const NEXT_CURSOR: &str = "fly-next-cursor";

/// 200 with a part of a list.
pub struct Paged<T>(pub Page<T>);

impl<T: Serialize> IntoResponse for Paged<T> {
    fn into_response(self) -> Response {
        let next = self.0.next.map(|next| [(NEXT_CURSOR, next)]);
        (next, Json(self.0.items)).into_response()
    }
}

impl<T: ToSchema> Answer for Paged<T> {
    fn describe(operation: &mut Operation) {
        operation.answers_list::<T>("200");
        operation.answer_header("200", NEXT_CURSOR, "Asks for the next part as `cursor`; absent on the last one");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_a_limit() {
        assert_eq!(wanted(None, None, 5).unwrap(), None);
        assert_eq!(wanted(None, Some(String::new()), 5).unwrap(), None);
        let part = PageRequest { limit: Some(5), cursor: Some("c".into()) };
        assert_eq!(wanted(Some(5), Some("c".into()), 5).unwrap(), Some(part));
        for (limit, cursor) in [(Some(0), None), (Some(6), None), (None, Some("c".into()))] {
            assert!(wanted(limit, cursor, 5).is_err(), "{limit:?}");
        }
    }
}
