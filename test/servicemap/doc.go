// Package servicemap looks at the service map's page in a real browser: Chromium without a screen. It has tests only.
//
//	go test ./test/servicemap -picture ../../docs/servicemap.png      writes the picture of docs
package servicemap
