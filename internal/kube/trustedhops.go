package kube

import (
	"fmt"
	"strconv"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// AnnotationTrustedHops is on a Gateway: how many proxies before it are trusted to say who the client is, from 0 to
// MaxTrustedHops.
const AnnotationTrustedHops = "weft.io/trusted-hops"

// MaxTrustedHops is more proxies than clients come through one after the other.
const MaxTrustedHops = 16

// TrustedHops returns how many proxies before a Gateway are trusted. problem says why its annotation is not followed; "" if it is.
func TrustedHops(gw *gwv1.Gateway) (hops uint32, problem string) {
	text, ok := gw.Annotations[AnnotationTrustedHops]
	if !ok {
		return 0, ""
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n > MaxTrustedHops {
		return 0, fmt.Sprintf("annotation %s: %.64q is no number from 0 to %d; no proxy before the Gateway is trusted", AnnotationTrustedHops, text, MaxTrustedHops)
	}
	return uint32(n), ""
}
