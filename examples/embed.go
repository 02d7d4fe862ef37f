// Package examples holds the manifests of the examples, for the demo and the tests.
package examples

import "embed"

// FS has a folder for each example. What is in a folder of its own there is for a node without a cluster.
//
//go:embed */*.yaml */*/*.yaml
var FS embed.FS
