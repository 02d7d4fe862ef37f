package check

import (
	"fmt"
	"strconv"
	"strings"
)

// The oldest kernel by the helpers that the eBPF programs call, and the one from which refusals have the right errno.
var (
	oldestKernel   = [2]int{5, 15}
	refusingKernel = [2]int{6, 1}
)

// parseKernel reads major and minor of a release such as 6.18.5-cloud-amd64.
func parseKernel(release string) ([2]int, error) {
	major, rest, ok := strings.Cut(release, ".")
	minor := rest
	if i := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		minor = rest[:i]
	}
	a, errA := strconv.Atoi(major)
	b, errB := strconv.Atoi(minor)
	if !ok || errA != nil || errB != nil {
		return [2]int{}, fmt.Errorf("kernel release %q does not begin with MAJOR.MINOR", release)
	}
	return [2]int{a, b}, nil
}

func older(a, b [2]int) bool { return a[0] < b[0] || a[0] == b[0] && a[1] < b[1] }

func version(k [2]int) string { return fmt.Sprintf("%d.%d", k[0], k[1]) }

// kernel judges a release; where is what it is the kernel of, in words for the remedy.
func (r *report) kernel(name, release string) {
	k, err := parseKernel(strings.TrimSpace(release))
	switch {
	case err != nil:
		r.warn(name, "see whether it is Linux "+version(oldestKernel)+" or later", "%v", err)
	case older(k, oldestKernel):
		r.fail(name, "Weft needs Linux "+version(oldestKernel)+" or later: upgrade the node's kernel", "Linux %s", strings.TrimSpace(release))
	case older(k, refusingKernel):
		r.warn(name, "works; from Linux "+version(refusingKernel)+" on applications see ECONNREFUSED, before EPERM, where Weft refuses a connection",
			"Linux %s", strings.TrimSpace(release))
	default:
		r.ok(name, "Linux %s", strings.TrimSpace(release))
	}
}
