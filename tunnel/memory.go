package tunnel

const (
	// nodeWindows bounds the windows of all streams of a node beyond their first ones.
	nodeWindows = 256 << 20
	// nodeQueues bounds what waits for applications that do not read. Streams with small windows can fill it too.
	nodeQueues = 256 << 20
)

// memory is what the streams of a node's pods share, in bytes. A pod has half of what is left.
type memory struct{ windows, queues pool }

func newMemory() *memory {
	return &memory{windows: pool{most: nodeWindows, weight: 1}, queues: pool{most: nodeQueues, weight: 1}}
}

// podMemory is what one pod has of it.
type podMemory struct{ windows, queues *share }

func (m *memory) newShare() *podMemory {
	return &podMemory{windows: m.windows.newShare(), queues: m.queues.newShare()}
}
