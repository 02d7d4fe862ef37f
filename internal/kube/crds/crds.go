// Package crds holds the schemas of the Gateway API's kinds, so that manifests from a folder are checked and
// completed as an API server would.
package crds

import "embed"

//go:generate go run ./gen .

// Files are <plural>.json: group, kind, the versions that are served, and the OpenAPI v3 schema of the version that is
// read.
//
//go:embed *.json
var Files embed.FS
