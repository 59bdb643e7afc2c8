//! Which resource a path names, and which handler serves the request.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request, header};
use axum::response::Response;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use model_kube::object::{Key, Kind};
use model_kube::resource::BUILT_IN;
use model_kube::store::Store;
use model_kube::write::{ApiError, Subresource};

use super::query::Query;
use super::{Shared, body, proxy, read, respond, review, token, watch, write};

/// A resource as clients see it.
#[derive(Debug, Clone)]
pub struct Resource {
    pub kind: Kind,
    pub group: String,
    pub version: String,
    pub kind_name: String,
    pub plural: String,
    pub singular: String,
    pub short: Vec<String>,
    pub namespaced: bool,
    pub status: bool,
    pub categories: Vec<String>,
    /// Of a CustomResourceDefinition.
    pub custom: bool,
}

impl Resource {
    fn built_in(kind: &Kind) -> Option<Self> {
        let info = kind.info()?;
        Some(Self {
            kind: kind.clone(),
            group: info.group.to_owned(),
            version: info.version.to_owned(),
            kind_name: info.kind.to_owned(),
            plural: info.plural.to_owned(),
            singular: info.singular.to_owned(),
            short: info.short.iter().map(|&name| name.to_owned()).collect(),
            namespaced: info.namespaced,
            status: info.status,
            categories: if info.all { vec!["all".to_owned()] } else { Vec::new() },
            custom: false,
        })
    }

    fn of_definition(definition: &CustomResourceDefinition) -> Vec<Self> {
        let spec = &definition.spec;
        let names = &spec.names;
        let served = spec.versions.iter().filter(|version| version.served);
        served
            .map(|version| Self {
                kind: Kind::Custom { group: spec.group.as_str().into(), plural: names.plural.as_str().into() },
                group: spec.group.clone(),
                version: version.name.clone(),
                kind_name: names.kind.clone(),
                plural: names.plural.clone(),
                singular: names.singular.clone().unwrap_or_else(|| names.kind.to_lowercase()),
                short: names.short_names.clone().unwrap_or_default(),
                namespaced: spec.scope == "Namespaced",
                status: version.subresources.as_ref().is_some_and(|subresources| subresources.status.is_some()),
                categories: names.categories.clone().unwrap_or_default(),
                custom: true,
            })
            .collect()
    }

    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    pub fn scale(&self) -> bool {
        matches!(self.kind, Kind::StatefulSet | Kind::Deployment | Kind::ReplicaSet)
    }

    /// Everything served, in order of groups.
    pub fn all(store: &Store) -> Vec<Self> {
        let built_in = BUILT_IN.iter().filter_map(Self::built_in);
        let custom = store.list::<CustomResourceDefinition>().flat_map(|definition| Self::of_definition(definition));
        built_in.chain(custom).collect()
    }

    fn find(store: &Store, group: &str, version: &str, plural: &str) -> Option<Self> {
        let built_in = BUILT_IN.iter().find(|kind| kind.group() == group && kind.plural() == plural);
        if let Some(found) = built_in.and_then(Self::built_in).filter(|found| found.version == version) {
            return Some(found);
        }
        let definition = store.get::<CustomResourceDefinition>("", &format!("{plural}.{group}"))?;
        Self::of_definition(definition).into_iter().find(|found| found.version == version)
    }
}

/// A request, read as far as its path and parameters.
pub struct Call {
    pub shared: Arc<Shared>,
    pub resource: Resource,
    /// Empty: all namespaces, or a cluster-scoped kind.
    pub namespace: String,
    pub query: Query,
    pub request: Request<Body>,
}

impl Call {
    pub fn key(&self, name: &str) -> Key {
        Key::new(self.resource.kind.clone(), &self.namespace, name)
    }

    pub fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.request.headers().get(name).and_then(|value| value.to_str().ok())
    }
}

pub async fn handle(shared: Arc<Shared>, group: &str, version: &str, rest: &[&str], request: Request<Body>) -> Response {
    respond::result(route(shared, group, version, rest, request).await)
}

async fn route(shared: Arc<Shared>, group: &str, version: &str, rest: &[&str], request: Request<Body>) -> Result<Response, ApiError> {
    if (group, version, rest) == ("authentication.k8s.io", "v1", &["tokenreviews"]) && request.method() == Method::POST {
        return review::token(&shared, request).await;
    }
    if let Some(answer) = review::handle(group, version, rest, &request) {
        let bytes = body::read(request).await?;
        return answer(&bytes.0, bytes.1.as_deref());
    }
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() && !matches!(rest, ["status" | "finalize"]) => (*namespace, rest),
        rest => ("", rest),
    };
    let (plural, rest) = rest.split_first().ok_or_else(ApiError::no_resource)?;
    let resource = shared.api.read(|store| Resource::find(store, group, version, plural)).ok_or_else(ApiError::no_resource)?;
    if resource.namespaced && namespace.is_empty() && !rest.is_empty() {
        return Err(ApiError::no_resource());
    }
    if !resource.namespaced && !namespace.is_empty() {
        return Err(ApiError::no_resource());
    }
    let query = Query::parse(request.uri().query());
    let call = Call { shared, namespace: namespace.to_owned(), query, request, resource };
    let method = call.request.method().clone();
    match (rest, &method) {
        ([], &Method::GET) if call.query.flag("watch") => watch::watch(call, None),
        ([], &Method::GET) => read::list(&call),
        ([], &Method::POST) => write::create(call).await,
        ([], &Method::DELETE) => write::delete_collection(call).await,
        ([name], &Method::GET) if call.query.flag("watch") => watch::watch(call, Some(name)),
        ([name], &Method::GET) => read::get(&call, name),
        ([name], &Method::PUT) => write::update(call, name, Subresource::None).await,
        ([name], &Method::PATCH) => write::patch(call, name, Subresource::None).await,
        ([name], &Method::DELETE) => write::delete(call, name).await,
        ([name, "status"], _) if call.resource.status => match method {
            Method::GET => read::get(&call, name),
            Method::PUT => write::update(call, name, Subresource::Status).await,
            Method::PATCH => write::patch(call, name, Subresource::Status).await,
            _ => Err(ApiError::method_not_allowed()),
        },
        ([name, "scale"], _) if call.resource.scale() => write::scale(call, name, &method).await,
        ([name, "binding"], &Method::POST) if call.resource.kind == Kind::Pod => write::bind(call, name).await,
        ([name, "eviction"], &Method::POST) if call.resource.kind == Kind::Pod => write::evict(call, name).await,
        ([name, "log"], &Method::GET) if call.resource.kind == Kind::Pod => proxy::log(call, name).await,
        ([name, sub @ ("exec" | "attach" | "portforward")], _) if call.resource.kind == Kind::Pod => proxy::stream(call, name, sub).await,
        ([name, "token"], &Method::POST) if call.resource.kind == Kind::ServiceAccount => token::create(call, name).await,
        ([], _) | ([_], _) => Err(ApiError::method_not_allowed()),
        _ => Err(ApiError::no_resource()),
    }
}
