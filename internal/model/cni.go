package model

// CNI is how the plugin stands in the network configuration of the container runtime. A node has one row, or none if the
// plugin is not to be installed.
type CNI struct {
	// File is the configuration that holds the plugin; "" while none does.
	File string `json:"file"`
	// Problems say what keeps the plugin out, and which configurations cannot be read.
	Problems []string `json:"problems,omitempty"`
}

// Key is the same for all rows: there is only one.
func (*CNI) Key() string { return "plugin" }
