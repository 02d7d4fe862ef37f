package xds

import (
	"slices"
	"strings"

	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// upgrades are the protocols that a client may ask for in HTTP/1.1 and that are carried if the server takes them: websockets,
// what kubectl speaks, what a container runtime speaks. A request for any other protocol is served as if it had not asked,
// which a client must be ready for (RFC 9110 7.8).
var upgrades = []string{"websocket", "spdy/3.1", "tcp"}

func upgradeConfigs() []*hcm.HttpConnectionManager_UpgradeConfig {
	out := make([]*hcm.HttpConnectionManager_UpgradeConfig, len(upgrades))
	for i, u := range upgrades {
		out[i] = &hcm.HttpConnectionManager_UpgradeConfig{UpgradeType: u}
	}
	return out
}

// ignoredUpgrades matches all protocols but upgrades.
func ignoredUpgrades() []*matcher.StringMatcher {
	return []*matcher.StringMatcher{matching("(?is)" + noneOf(upgrades))}
}

// noneOf returns an expression in RE2's syntax, which has no negation, for all strings but words. Words are not empty, and
// none is the start of another.
func noneOf(words []string) string {
	next := map[byte][]string{} // what follows a first byte
	var firsts strings.Builder
	for _, w := range words {
		if _, ok := next[w[0]]; !ok {
			firsts.WriteString(quoteMeta(w[:1]))
		}
		next[w[0]] = append(next[w[0]], w[1:])
	}
	alternatives := []string{"", "[^" + firsts.String() + "].*"}
	for _, w := range words {
		rest, ok := next[w[0]]
		if !ok {
			continue
		}
		delete(next, w[0])
		after := ".+" // longer than the word
		if !slices.Contains(rest, "") {
			after = noneOf(rest)
		}
		alternatives = append(alternatives, quoteMeta(w[:1])+after)
	}
	return "(?:" + strings.Join(alternatives, "|") + ")"
}
