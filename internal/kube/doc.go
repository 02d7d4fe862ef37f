// Package kube brings objects in: it reads manifests and keeps them in tables that package gateway translates.
//
// It and package gateway alone know Kubernetes and Gateway API types.
package kube
