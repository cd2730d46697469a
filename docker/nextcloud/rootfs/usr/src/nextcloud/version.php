<?php
// The stand-in's own version, not one of Nextcloud's.
$OC_Version = [0, 1, 0, 0];
$OC_VersionString = '0.1.0';
