// Package examples holds the manifests of the examples, for the demo and the tests.
package examples

import "embed"

// FS has a folder for each example.
//
//go:embed */*.yaml
var FS embed.FS
