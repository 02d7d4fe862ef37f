package tunnel

import "sync/atomic"

const (
	// nodeWindows bounds the windows of all streams of a node beyond their first ones.
	nodeWindows = 256 << 20
	// nodeQueues bounds what waits for applications that do not read. Streams with small windows can fill it too.
	nodeQueues = 256 << 20
)

// memory is what the streams of a node share.
type memory struct {
	windows, queues       atomic.Int64 // bytes
	maxWindows, maxQueues int64
}

func newMemory() *memory { return &memory{maxWindows: nodeWindows, maxQueues: nodeQueues} }

// take reserves n bytes of a sum, unless they would be more than most.
func take(sum *atomic.Int64, n int, most int64) bool {
	if sum.Add(int64(n)) <= most {
		return true
	}
	sum.Add(-int64(n))
	return false
}
