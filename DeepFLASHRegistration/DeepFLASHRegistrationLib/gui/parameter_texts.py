# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501
"""What the parameters are called, for translators. Made by Utilities/make_parameter_texts.py: do not edit."""

from __future__ import annotations

from slicer.i18n import tr as _


def parameterTexts() -> dict[str, tuple[str, str, dict[str, str]]]:
    """Name -> label, help and titles of the choices by their names, in the language of the application."""
    # fmt: off
    return {
        "preset": (_("Preset"), _("What the other settings started from."), {"fast": _("Fast: for a first look"), "default": _("Default: accurate"), "fine": _("Fine: closest match, takes longest"), "paper": _("As in the paper on DeepFLASH")}),
        "method": (_("Method"), _("Estimator of the initial velocity: FLASH optimizes it; DeepFLASH predicts it by a trained model, in a fraction of the time; DeepFLASH + FLASH refines the prediction. The model decides all other settings but the alignment and the bias correction. A transform that another program found can be taken as it is, or refined; ANTs and Greedy can be asked for theirs."), {"flash": _("Optimization, accurate (FLASH)"), "deepflash": _("Prediction by a neural network, fast (DeepFLASH)"), "deepflash+flash": _("Prediction, then a short optimization (DeepFLASH + FLASH)"), "transform": _("A transform found elsewhere, as it is (transform)"), "transform+flash": _("A transform found elsewhere, then a short optimization (transform + FLASH)"), "lddmm": _("Optimization without a band, slow (LDDMM)"), "lddmm+flash": _("Without a band, then a short optimization (LDDMM + FLASH)"), "nephi": _("Optimization of neural fields, slow (NePhi)"), "nephi+flash": _("Neural fields, then a short optimization (NePhi + FLASH)"), "nephi-codes": _("Prediction of latent codes, of neural fields (NePhi-codes)"), "nephi-codes+flash": _("Prediction of latent codes, then a short optimization (NePhi-codes + FLASH)"), "ants": _("SyN of another program (ANTs)"), "ants+flash": _("SyN of another program, then a short optimization (ANTs + FLASH)"), "greedy": _("Greedy diffeomorphic registration of another program (Greedy)"), "greedy+flash": _("Another program's, then a short optimization (Greedy + FLASH)"), "voxelmorph": _("Prediction by a U-Net, of a stationary velocity (VoxelMorph)"), "voxelmorph+flash": _("A U-Net's prediction, then a short optimization (VoxelMorph + FLASH)"), "quicksilver": _("Prediction of LDDMM's momentum, patch by patch (Quicksilver)"), "quicksilver+flash": _("A predicted momentum, then a short optimization (Quicksilver + FLASH)"), "icon": _("Prediction by networks in steps, inverse consistent (ICON)"), "icon+flash": _("Prediction in steps, then a short optimization (ICON + FLASH)"), "gradicon": _("Prediction by networks in steps, of consistent gradients (GradICON)"), "gradicon+flash": _("Prediction in steps, then a short optimization (GradICON + FLASH)"), "constricon": _("Prediction by networks in steps, inverse by construction (ConstrICON)"), "constricon+flash": _("Inverse by construction, then a short optimization (ConstrICON + FLASH)"), "unigradicon": _("A foundation model for all of the body (uniGradICON)"), "unigradicon+flash": _("A foundation model, then a short optimization (uniGradICON + FLASH)"), "carl": _("Prediction by attention to coordinates, then networks in steps (CARL)"), "carl+flash": _("Attention to coordinates, then a short optimization (CARL + FLASH)"), "unicarl": _("A foundation model with attention to coordinates (uniCARL)"), "unicarl+flash": _("A foundation model with attention, then a short optimization (uniCARL + FLASH)")}),
        "model": (_("Trained model"), _("Model of DeepFLASH: the name of a bundled or installed one, its folder, or auto for the one that fits both images."), {}),
        "refinement": (_("Refinement"), _("Iterations of FLASH after the prediction, with DeepFLASH + FLASH, or after a transform."), {}),
        "as_geodesic": (_("As a geodesic"), _("Of a map that is none, such as a transform found elsewhere, the geodesic nearest to it: it has an exact inverse, no folds, and a way from the alignment to the map."), {}),
        "instance_steps": (_("Instance optimization"), _("Steps by which the weights of a trained network are fitted to this very pair, by what it was trained with; 0 takes its prediction as it is. Of VoxelMorph, ICON, GradICON, ConstrICON and uniGradICON. The model itself stays as it was. It takes long on a processor, and says how long."), {}),
        "network_voxels": (_("Voxels of the network"), _("Along the longest axis, of a network to whose own grid images are stretched (uniGradICON); 0 for those that it was trained on. Fewer take less memory and time, and show less."), {}),
        "samples": (_("Random answers"), _("Of Quicksilver with dropout: how many; their spread is the uncertainty."), {}),
        "initial_alignment": (_("Initial alignment"), _("Linear alignment before the deformation."), {"none": _("None: they lie on each other already"), "centers": _("Only the middles on each other (centers)"), "rigid": _("Shift and turn, same patient (rigid)"), "affine": _("Shift, turn and scale, different patients (affine)")}),
        "similarity": (_("Similarity"), _("What is compared: local correlation (also across contrasts), correlation, squared differences (same scanner and contrast), or mutual information (other modality)."), {"lncc": _("Local correlation, same or different scanners (LNCC)"), "ncc": _("Correlation, same kind of image (NCC)"), "ssd": _("Difference, same scanner and settings (SSD)"), "mi": _("Mutual information, different modalities (MI)")}),
        "window_mm": (_("Correlation window"), _("Full width of the window of the local correlation at the finest level; at least five voxels at every level, and at most a quarter of the image. 0 lets it follow the size of the fixed object (7 mm for an adult's brain)."), {}),
        "symmetric": (_("Symmetric"), _("Compare the images in both directions, each resampled onto the other; takes longer."), {}),
        "channel_weights": (_("Weights of further images"), _("How much each further image of the subjects counts beside the first, which counts 1, such as 1, 0.5; 1 each if it is left empty. At 0 it is only measured."), {}),
        "channel_similarities": (_("Similarities of further images"), _("By what each further image is compared, such as lncc, mi; as the first if it is left empty."), {"lncc": _("Local correlation, same or different scanners (LNCC)"), "ncc": _("Correlation, same kind of image (NCC)"), "ssd": _("Difference, same scanner and settings (SSD)"), "mi": _("Mutual information, different modalities (MI)")}),
        "landmark_weight": (_("Weight of landmarks"), _("How much the landmarks steer: 1 as they are trusted, 0 not at all, and their distances are only measured. A landmark that the others contradict is set aside, and named."), {}),
        "landmark_trust_mm": (_("Trust in landmarks"), _("To within how many mm a landmark is placed (standard deviation along each axis), unless its file tells. 0 lets it follow the size of the fixed object (2 mm for an adult's brain)."), {}),
        "label_weight": (_("Weight of structures"), _("How much structures that are drawn on both sides steer by their surfaces: 1 as they are trusted, 0 not at all, and their overlap is only measured."), {}),
        "label_trust_mm": (_("Trust in surfaces"), _("To within how many mm the surface of a structure is drawn. 0 lets it follow the size of the fixed object (1 mm for an adult's brain)."), {}),
        "label_weighting": (_("Structures count"), _("Whether each structure counts alike, or by its volume."), {"boundary": _("Each alike (boundary)"), "volume": _("By its volume (volume)")}),
        "steering_labels": (_("Structures that steer"), _("Numbers of the labels that steer, such as 1, 4, in 3D Slicer also names of segments; all that both sides have if it is left empty."), {}),
        "rigid_labels": (_("Rigid structures"), _("Numbers of the fixed labels that may move and turn but not change their shape, such as bones; in 3D Slicer also names of segments."), {}),
        "volume_labels": (_("Structures of constant volume"), _("Numbers of the fixed labels that may change their shape but not their volume, such as a tumor; in 3D Slicer also names of segments."), {}),
        "sigma": (_("Sigma"), _("Noise level σ: the dissimilarity (mean over the mask) weighs 1/(2σ²) against the energy of the deformation. Smaller fits closer."), {}),
        "alpha": (_("Smoothness α"), _("Weight of the second derivative in the metric L = (γ − α∇²)^c. Larger is smoother. Lengths count in units that follow the size of the fixed object (1.25 mm for an adult's brain)."), {}),
        "power": (_("Smoothness power c"), _("Exponent of the metric L = (γ − α∇²)^c."), {}),
        "gamma": (_("γ"), _("Weight of the displacement itself in the metric."), {}),
        "alpha_growth": (_("Growth of α"), _("Factor by which α grows for each coarser level. 1 keeps one metric for all levels."), {}),
        "resolutions": (_("Resolutions"), _("Voxel size of each level in working voxels."), {}),
        "bands": (_("Bands"), _("Frequencies of the velocity along the longest axis at each level (odd; shorter axes get proportionally fewer)."), {}),
        "iterations": (_("Iterations"), _("Most iterations of each level."), {}),
        "tolerance": (_("Tolerance"), _("A level ends when an iteration lowers the energy by less than this fraction."), {}),
        "search": (_("Search"), _("How the directions of the steps are found: from the similarity's curvature and the steps so far (Gauss-Newton), or from the steps alone (L-BFGS)."), {"gauss-newton": _("By the curvature of the similarity (Gauss-Newton)"), "lbfgs": _("By the steps so far alone (L-BFGS)")}),
        "integrator": (_("Integrator"), _("Time stepping of EPDiff while optimizing."), {"euler": _("First order (Euler)"), "multistep": _("Second order, with the step before (multistep)"), "midpoint": _("Second order (midpoint)"), "rk4": _("Fourth order (Runge-Kutta)")}),
        "steps": (_("Time steps"), _("Steps of the geodesic while optimizing; 0 chooses them from the velocity."), {}),
        "map": (_("Map"), _("How the map follows the velocity: on a grid by semi-Lagrangian steps (no folds), or as a displacement in the band (FLASH's own)."), {"semi-lagrangian": _("On a grid, without folds (semi-Lagrangian)"), "band-limited": _("Of few frequencies, as in FLASH (band-limited)")}),
        "spacing_mm": (_("Working voxel"), _("Voxel size at resolution 1; 0 chooses it from the fixed image."), {}),
        "max_voxels": (_("Most voxels"), _("Upper limit of the working grid when its voxel size is chosen automatically."), {}),
        "margin_mm": (_("Margin"), _("Space around the fixed foreground in which the deformation fades out; at most a quarter of the image. 0 lets it follow the size of the fixed object (12 mm for an adult's brain)."), {}),
        "normalization": (_("Intensity scaling"), _("Percentiles of the foreground, or a fixed window; auto takes the window where both images are CT, as the values tell (air near -1000, water near 0), and percentiles for all else."), {"auto": _("Automatic: window for CT, else percentiles"), "percentiles": _("By most of the object's voxels (percentiles)"), "window": _("By a fixed window (CT)"), "unigradicon": _("Each by what it is: CT from -1000 to 1000, others up to the 99th percentile (uniGradICON)"), "unicarl": _("Each from the 1st to the 99th percentile of all its voxels (uniCARL)")}),
        "window_low": (_("Window from"), _("Lower end of the fixed intensity window (CT)."), {}),
        "window_high": (_("Window to"), _("Upper end of the fixed intensity window (CT)."), {}),
        "bias_correction": (_("Bias correction"), _("Correct both images' bias field first (N4)."), {}),
        "histogram_matching": (_("Histogram matching"), _("Give the moving image the fixed image's histogram first (same contrast only)."), {}),
    }


def methodSentences() -> dict[str, str]:
    """What each method does, in the language of the application."""
    # fmt: off
    return {
        "flash": _("Lowers the difference of the images step by step, by a geodesic of few frequencies. Needs no model."),
        "deepflash": _("A model that was trained on images of one kind says the geodesic at once."),
        "deepflash+flash": _("A model's prediction, from which FLASH goes on for some iterations."),
        "transform": _("Takes a transform that was found before, from the fixed to the moving image, and measures it."),
        "transform+flash": _("Starts from a transform that was found before; FLASH goes on from it."),
        "lddmm": _("What FLASH does, with every frequency that the voxels hold. Slow, and takes much memory."),
        "lddmm+flash": _("The geodesic nearest to LDDMM's map, from which FLASH goes on."),
        "nephi": _("A map and its inverse as small networks of the coordinates, fitted to the pair. Needs no model."),
        "nephi+flash": _("The geodesic nearest to the map of NePhi, from which FLASH goes on."),
        "nephi-codes": _("A network that was trained on images of one kind says codes, of which a neural field makes the map; they can be fitted to the pair."),
        "nephi-codes+flash": _("The geodesic nearest to the map of NePhi's codes, from which FLASH goes on."),
        "ants": _("Symmetric normalization by ANTs, which has to be installed in a Python of its own."),
        "ants+flash": _("The geodesic nearest to the map of ANTs, from which FLASH goes on."),
        "greedy": _("Greedy registration by Greedy, which has to be installed in a Python of its own."),
        "greedy+flash": _("The geodesic nearest to the map of Greedy, from which FLASH goes on."),
        "voxelmorph": _("A network that was trained on images of one kind says the map at once. Needs the package MONAI."),
        "voxelmorph+flash": _("The geodesic nearest to VoxelMorph's map, from which FLASH goes on. Needs the package MONAI."),
        "quicksilver": _("A network that learned from LDDMM says where its geodesic starts."),
        "quicksilver+flash": _("The geodesic nearest to Quicksilver's map, from which FLASH goes on."),
        "icon": _("Networks that were trained on images of one kind say the map and its inverse at once. Needs the package icon-registration."),
        "icon+flash": _("The geodesic nearest to ICON's map, from which FLASH goes on. Needs the package icon-registration."),
        "gradicon": _("As ICON, but that the gradients of both maps are inverse to each other is what makes them regular. Needs the package icon-registration."),
        "gradicon+flash": _("The geodesic nearest to GradICON's map, from which FLASH goes on. Needs the package icon-registration."),
        "constricon": _("As ICON, but exponentials make the maps inverse to each other, whatever the networks have learned. Needs the package icon-registration."),
        "constricon+flash": _("The geodesic nearest to ConstrICON's map, from which FLASH goes on. Needs the package icon-registration."),
        "unigradicon": _("GradICON's networks, trained on images of many regions, on a grid of 175 voxels along each axis. Needs its published weights and the package icon-registration."),
        "unigradicon+flash": _("The geodesic nearest to uniGradICON's map, from which FLASH goes on. Needs its published weights and the package icon-registration."),
        "carl": _("As GradICON, but its first step finds what looks alike wherever it lies, so that images that moved apart are no harder. Needs the package icon-registration."),
        "carl+flash": _("The geodesic nearest to CARL's map, from which FLASH goes on. Needs the package icon-registration."),
        "unicarl": _("CARL's networks, trained on images of many regions, on a grid of 160 voxels along each axis. Needs its published weights and the package icon-registration."),
        "unicarl+flash": _("The geodesic nearest to uniCARL's map, from which FLASH goes on. Needs its published weights and the package icon-registration."),
    }
