//! One operation of the description. Optional means "may be absent": an explicit `null` is read as
//! absence everywhere and never written, so the description mentions no `null`.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use utoipa::ToSchema;

use atoll_model::wire::ErrorBody;

const JSON: &str = "application/json";

/// What is known of an operation besides its name.
#[derive(Default)]
pub struct Operation {
    parameters: Vec<Value>,
    body: Option<Value>,
    responses: BTreeMap<String, Value>,
    needs_token: bool,
    schemas: BTreeMap<String, Value>,
}

impl Operation {
    /// An operation with the parameters that `path` has in braces.
    pub fn of_path(path: &str) -> Self {
        let mut operation = Self::default();
        for name in path.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name) {
            operation.parameter("path", name, true, json!({"type": "string"}));
        }
        operation
    }

    pub fn parameter(&mut self, place: &str, name: &str, required: bool, mut schema: Value) {
        let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        let mut parameter = json!({"in": place, "name": name, "required": required, "schema": schema});
        if let Some(description) = description {
            parameter["description"] = description;
        }
        self.parameters.push(parameter);
    }

    /// A query parameter for each property of `T`.
    pub fn query<T: ToSchema>(&mut self) {
        let schema = self.register::<T>();
        let is_required =
            |name: &str| schema["required"].as_array().is_some_and(|all| all.iter().any(|one| one == name));
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            self.parameter("query", name, is_required(name), property.clone());
        }
    }

    pub fn takes<T: ToSchema>(&mut self, required: bool) {
        let schema = self.schema::<T>();
        self.takes_raw(JSON, required, schema);
    }

    pub fn takes_raw(&mut self, content_type: &str, required: bool, schema: Value) {
        self.body = Some(json!({"required": required, "content": {content_type: {"schema": schema}}}));
    }

    pub fn needs_token(&mut self) {
        self.needs_token = true;
    }

    pub fn answers<T: ToSchema>(&mut self, status: &str) {
        let schema = self.schema::<T>();
        self.answers_raw(status, JSON, schema);
    }

    /// An array of `T`.
    pub fn answers_list<T: ToSchema>(&mut self, status: &str) {
        let items = self.schema::<T>();
        self.answers_raw(status, JSON, json!({"type": "array", "items": items}));
    }

    pub fn answers_raw(&mut self, status: &str, content_type: &str, schema: Value) {
        let response = json!({"description": describe(status), "content": {content_type: {"schema": schema}}});
        self.responses.insert(status.to_owned(), response);
    }

    pub fn answers_nothing(&mut self, status: &str) {
        self.responses.insert(status.to_owned(), json!({"description": describe(status)}));
    }

    /// A header of the answer that was described with this status.
    pub fn answer_header(&mut self, status: &str, name: &str, description: &str) {
        if let Some(response) = self.responses.get_mut(status) {
            response["headers"][name] = json!({"description": description, "schema": {"type": "string"}});
        }
    }

    /// `status`: a number, or `default` for all that are not named.
    pub fn failure(&mut self, status: &str) {
        self.answers::<ErrorBody>(status);
    }

    pub fn schemas(&self) -> &BTreeMap<String, Value> {
        &self.schemas
    }

    pub fn document(&self, id: &str, summary: &str) -> Value {
        let mut shown = json!({
            "operationId": id,
            "summary": summary,
            "parameters": self.parameters,
            "responses": self.responses,
        });
        if let Some(body) = &self.body {
            shown["requestBody"] = body.clone();
        }
        if self.needs_token {
            shown["security"] = json!([{"token": []}]);
        }
        shown
    }

    /// `T`, by its name if it has fields or cases, in full if it is made of other types.
    pub fn schema<T: ToSchema>(&mut self) -> Value {
        let schema = self.register::<T>();
        if !["properties", "allOf", "oneOf", "enum"].iter().any(|key| schema.get(key).is_some()) {
            return schema;
        }
        let name = T::name();
        self.schemas.insert(name.to_string(), schema);
        json!({"$ref": format!("#/components/schemas/{name}")})
    }

    /// `T` in full; all that it refers to is registered.
    fn register<T: ToSchema>(&mut self) -> Value {
        let mut referred = Vec::new();
        T::schemas(&mut referred);
        self.schemas.extend(referred.into_iter().map(|(name, schema)| (name, plain(json!(schema)))));
        plain(json!(T::schema()))
    }
}

/// Without `null`, see the module.
fn plain(schema: Value) -> Value {
    match schema {
        Value::Object(mut fields) => {
            if let Some(Value::Array(types)) = fields.get_mut("type") {
                types.retain(|one| one != "null");
                if let [only] = types.as_slice() {
                    fields["type"] = only.clone();
                }
            }
            if let Some(Value::Array(cases)) = fields.get_mut("oneOf") {
                cases.retain(|case| case["type"] != "null");
                if let [only] = cases.as_slice()
                    && let Value::Object(only) = only.clone()
                {
                    fields.remove("oneOf");
                    fields.extend(only);
                }
            }
            fields.into_iter().map(|(key, value)| (key, plain(value))).collect()
        }
        Value::Array(items) => items.into_iter().map(plain).collect(),
        other => other,
    }
}

fn describe(status: &str) -> &'static str {
    match status {
        "101" => "The connection becomes a WebSocket",
        "200" => "Done",
        "201" => "Made",
        "202" => "Accepted; goes on by itself",
        "204" => "Done; there is nothing to say",
        "400" => "The request is not what this route takes",
        "401" => "No valid token",
        "404" => "There is no such thing",
        "408" => "It did not happen in time",
        "409" => "It conflicts with what is there",
        "412" => "The present state does not allow it",
        "422" => "It cannot be had",
        "500" => "The platform failed",
        _ => "Any failure",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(ToSchema)]
    struct Inner {
        #[schema(rename = "metadata.{key}")]
        _label: Option<String>,
    }

    #[derive(ToSchema)]
    struct Outer {
        _inner: Option<Inner>,
        _count: u32,
    }

    #[test]
    fn optional_is_absent_not_null() {
        let mut operation = Operation::default();
        assert_eq!(operation.schema::<Outer>()["$ref"], "#/components/schemas/Outer");
        let outer = &operation.schemas()["Outer"];
        assert_eq!(outer["properties"]["_inner"]["$ref"], "#/components/schemas/Inner");
        assert_eq!(outer["required"], json!(["_count"]));
        assert_eq!(operation.schemas()["Inner"]["properties"]["metadata.{key}"]["type"], "string");
    }

    #[test]
    fn parameters_come_from_the_path_and_from_properties() {
        let mut operation = Operation::of_path("/v1/apps/{app_name}/machines/{machine_id}");
        operation.query::<Inner>();
        let names: Vec<_> = operation.parameters.iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["app_name", "machine_id", "metadata.{key}"]);
        assert_eq!(operation.parameters[2]["required"], false);
    }
}
